"""Augmentation that moves pose and picture together.

The scene is transformed by an orthogonal matrix Q (a mirror x → −x, a small rotation of the camera) and
the picture by the homography V·K·Q·K⁻¹, V being the view with its random zoom and shift. Both are exact: the
warped picture is what a camera with intrinsics V·K sees of the transformed scene, for every car at every
depth (zoom and shift live in the intrinsics, the mirror is about cx). One interpolation does all.
"""

import random
from dataclasses import dataclass, replace

import cv2
import numpy as np

from carpose.config.train_config import TrainConfig
from carpose.geometry.rotation import MIRROR, matrix

BORDER = (124, 124, 124, 0)  # grey where the picture ends; the fourth channel is the mask


@dataclass(frozen=True)
class Placement:
    """How a photo comes into the network: `scene` acts on the camera frame, `view` on photo pixels."""

    scene: np.ndarray  # Q, 3×3 orthogonal
    view: np.ndarray  # V, 3×3, photo pixels → network pixels

    def homography(self, intrinsics: np.ndarray) -> np.ndarray:
        """Photo pixels → network pixels, 3×3."""
        return self.view @ intrinsics @ self.scene @ np.linalg.inv(intrinsics)

    def apply(self, xyz: np.ndarray, rotation: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Positions (N, 3) and rotations (N, 3, 3) of cars as the network's camera sees them."""
        car = MIRROR if np.linalg.det(self.scene) < 0 else np.eye(3)
        return xyz @ self.scene.T, self.scene @ rotation @ car


def turned(pan: float, tilt: float, roll: float) -> np.ndarray:
    """3×3 rotation of the camera frame by so many degrees."""
    return matrix(np.radians([tilt, pan, roll]))[0]


def sample(train_config: TrainConfig, view: np.ndarray, rng: np.random.Generator) -> Placement:
    """Draw a placement around the nominal view."""
    width, height = train_config.input_width, train_config.input_height
    scene = MIRROR if rng.random() < train_config.flip else np.eye(3)
    scene = turned(*rng.uniform(-1, 1, 3) * train_config.rotate_deg) @ scene
    zoom = np.exp(rng.uniform(-1, 1) * np.log1p(train_config.zoom))
    dx, dy = rng.uniform(-1, 1, 2) * train_config.shift * [width, height]
    centre = np.array([(width - 1) / 2, (height - 1) / 2])
    shift = centre * (1 - zoom) + [dx, dy]
    jitter = np.array([[zoom, 0, shift[0]], [0, zoom, shift[1]], [0, 0, 1]])
    return Placement(scene, jitter @ view)


def stronger(train_config: TrainConfig, factor: float) -> TrainConfig:
    """The recipe with `factor` times the rotation, zoom, shift and colour change."""
    return replace(
        train_config,
        rotate_deg=[factor * angle for angle in train_config.rotate_deg],
        zoom=factor * train_config.zoom,
        shift=factor * train_config.shift,
        colour=min(factor * train_config.colour, 1.0),
    )


def warp(picture: np.ndarray, homography: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(H, W, 4) uint8 → (height, width, 4), size = (width, height)."""
    return cv2.warpPerspective(
        picture, homography, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=BORDER
    )


class Photometric:
    """Brightness, contrast, hue, saturation, gamma, noise and blur through albumentations.

    Called with a generator, so that a sample depends on nothing but the recipe's seed, epoch and image.
    """

    def __init__(self, strength: float):
        import albumentations as A

        self.transform = None
        if strength > 0:
            light = 0.4 * strength
            self.transform = A.Compose(
                [
                    A.RandomBrightnessContrast(light, light, p=0.8),
                    A.HueSaturationValue(int(20 * strength), int(40 * strength), 0, p=0.3),
                    A.RandomGamma((int(100 - 40 * strength), int(100 + 60 * strength)), p=0.3),
                    A.OneOf([A.GaussNoise((0.01, 0.08 * strength + 0.01)), A.GaussianBlur((3, 3))], p=0.2),
                ]
            )

    def __call__(self, picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """picture: (H, W, 4) uint8; the mask channel is left alone."""
        if self.transform is None:
            return picture
        # Not set_random_seed, which gives each transform the same numbers: a rare one would be used only
        # together with the commoner ones, and as weakly as it is rare.
        self.transform.set_random_state(rng, random.Random(int(rng.integers(2**31))))
        # OpenCV takes the channels apart and together again ten times faster than NumPy.
        colour = self.transform(image=cv2.cvtColor(picture, cv2.COLOR_RGBA2RGB))["image"]
        result = picture.copy()
        cv2.mixChannels([colour], [result], [0, 0, 1, 1, 2, 2])
        return result
