"""The camera that a network was trained with, which its checkpoint holds: photos of other cameras are mapped
to it.
"""

from dataclasses import dataclass

import numpy as np

from carpose.config.train_config import TrainConfig
from carpose.geometry import camera

from .cache import Cache, resample

MARGIN = 0.1  # of the photo's height


@dataclass(frozen=True)
class TrainingCamera:
    """Size and intrinsics of the photos that a network was trained on, and how the cache held them."""

    photo_size: tuple[int, int]  # width, height in pixels
    intrinsics: np.ndarray  # 3×3
    view: np.ndarray  # 3×3, photo pixels → pixels of the cache
    size: tuple[int, int]  # width, height of a cached picture

    @classmethod
    def of_cache(cls, cache: Cache) -> "TrainingCamera":
        height, width = cache.photos.shape[1:3]
        return cls(cache.photo_size, cache.intrinsics, cache.view, (width, height))

    @classmethod
    def of_data_set(cls, train_config: TrainConfig) -> "TrainingCamera":
        """For checkpoints that do not say: the data set's camera, which is the demo's too, and a cache about
        as fine as the network's input, with a margin for views of a turned camera."""
        photo_size, crop = camera.PHOTO_SIZE, train_config.crop
        left, top, right, bottom = camera.visible_part(crop, train_config.perspective)
        part = left, max(top - MARGIN, 0.0), right, min(bottom + MARGIN, 1.0)
        spans = crop[2] - crop[0], crop[3] - crop[1]
        inputs = train_config.input_width, train_config.input_height
        columns, rows = (
            max(1, round((high - low) / span * pixels))
            for low, high, span, pixels in zip(part[:2], part[2:], spans, inputs, strict=True)
        )
        size = columns, rows
        return cls(photo_size, camera.INTRINSICS, camera.crop_and_resize(photo_size, part, size), size)

    @classmethod
    def from_json(cls, content: dict) -> "TrainingCamera":
        """What `to_json` made. Raises KeyError, TypeError or ValueError where it is none."""
        intrinsics, view = (np.array(content[key], float).reshape(3, 3) for key in ("intrinsics", "view"))
        (width, height), (columns, rows) = content["photo_size"], content["size"]
        return cls((width, height), intrinsics, view, (columns, rows))

    def to_json(self) -> dict:
        matrices = {"intrinsics": self.intrinsics.tolist(), "view": self.view.tolist()}
        return {"photo_size": list(self.photo_size), "size": list(self.size)} | matrices

    def view_of(self, intrinsics: np.ndarray) -> np.ndarray:
        """Pixels of a photo by a camera with these intrinsics (3×3) → pixels of the cache.

        Exact, at every depth: K'·K⁻¹ takes the pixel in which a camera with intrinsics K sees a point to the
        one in which a camera with K', in the same place and looking the same way, sees it.
        """
        return self.view @ self.intrinsics @ np.linalg.inv(intrinsics)

    def cached(self, image: np.ndarray, intrinsics: np.ndarray) -> np.ndarray:
        """(H, W, 3) uint8 RGB of a camera with these intrinsics → (height, width, 4) as the cache would hold
        it, nothing of it masked; black where the photo ends."""
        picture = resample(image, self.view_of(intrinsics), self.size)
        return np.dstack([picture, np.zeros(self.size[::-1], np.uint8)])
