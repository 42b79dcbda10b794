"""Augmentation that transforms poses and image together.

The scene is transformed by an orthogonal matrix Q (the mirror x → −x, a small rotation of the camera), the
image by the homography V·K·Q·K⁻¹, where V is the view with a random zoom and shift. This is exact for every
car at every depth: the warped image is what a camera with intrinsics V·K sees of the transformed scene. Zoom
and shift are part of the intrinsics; the mirror is about cx. The image is interpolated once.
"""

import os
import random
from dataclasses import dataclass, replace

import cv2
import numpy as np

from carpose.config.train_config import TrainConfig
from carpose.geometry.rotation import MIRROR, matrix

BORDER = (124, 124, 124, 0)  # grey beyond the edge of the photo; the fourth channel is the mask


@dataclass(frozen=True)
class Placement:
    """How a photo is mapped to the network's input."""

    scene: np.ndarray  # Q, 3×3 orthogonal, acts on the camera frame
    view: np.ndarray  # V, 3×3, photo pixels → network pixels

    def homography(self, intrinsics: np.ndarray) -> np.ndarray:
        """Photo pixels → network pixels, 3×3."""
        return self.view @ intrinsics @ self.scene @ np.linalg.inv(intrinsics)

    def apply(self, xyz: np.ndarray, rotation: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Positions (N, 3) in metres and rotations (N, 3, 3) of cars → the same in the transformed scene.

        A mirror also mirrors each car in its own frame, so that its rotation stays a rotation."""
        car_mirror = MIRROR if np.linalg.det(self.scene) < 0 else np.eye(3)
        return xyz @ self.scene.T, self.scene @ rotation @ car_mirror


def camera_rotation(pan_deg: float, tilt_deg: float, roll_deg: float) -> np.ndarray:
    """3×3 rotation of the camera frame."""
    return matrix(np.radians([tilt_deg, pan_deg, roll_deg]))[0]


def sample_placement(train_config: TrainConfig, view: np.ndarray, rng: np.random.Generator) -> Placement:
    """Draw a random placement; view: 3×3, the nominal view of photo pixels."""
    width, height = train_config.input_width, train_config.input_height
    scene = MIRROR if rng.random() < train_config.flip else np.eye(3)
    scene = camera_rotation(*rng.uniform(-1, 1, 3) * train_config.rotate_deg) @ scene
    zoom = np.exp(rng.uniform(-1, 1) * np.log1p(train_config.zoom))
    dx, dy = rng.uniform(-1, 1, 2) * train_config.shift * [width, height]
    centre = np.array([(width - 1) / 2, (height - 1) / 2])
    shift = centre * (1 - zoom) + [dx, dy]
    jitter = np.array([[zoom, 0, shift[0]], [0, zoom, shift[1]], [0, 0, 1]])
    return Placement(scene, jitter @ view)


def scale_augmentation(train_config: TrainConfig, factor: float) -> TrainConfig:
    """The training configuration with rotation, zoom, shift and colour change multiplied by `factor`."""
    return replace(
        train_config,
        rotate_deg=[factor * angle for angle in train_config.rotate_deg],
        zoom=factor * train_config.zoom,
        shift=factor * train_config.shift,
        colour=min(factor * train_config.colour, 1.0),
    )


def warp(image: np.ndarray, homography: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Warp (H, W, 4) uint8 to (height, width, 4) by a 3×3 matrix; size: width, height."""
    return cv2.warpPerspective(
        image, homography, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=BORDER
    )


class Photometric:
    """Brightness, contrast, hue, saturation, gamma, noise and blur through albumentations.

    All random numbers come from the generator of the call, so that a sample depends on its own seed alone.
    """

    def __init__(self, strength: float):
        os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # its import asks for news over the internet
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

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """image (H, W, 4) uint8 → the same shape; the mask channel is not changed."""
        if self.transform is None:
            return image
        # Not set_random_seed, which gives all transforms the same random numbers: one with a low probability
        # would then be applied only together with those of a higher one, and only weakly.
        self.transform.set_random_state(rng, random.Random(int(rng.integers(2**31))))
        # OpenCV splits and merges channels ten times as fast as NumPy.
        colour = self.transform(image=cv2.cvtColor(image, cv2.COLOR_RGBA2RGB))["image"]
        result = image.copy()
        cv2.mixChannels([colour], [result], [0, 0, 1, 1, 2, 2])
        return result
