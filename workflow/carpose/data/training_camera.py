"""The camera that a network was trained with, which its checkpoint holds: photos of other cameras are mapped
to it.
"""

from dataclasses import dataclass

import numpy as np

from .cache import Cache, resample


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
    def from_json(cls, content: dict) -> "TrainingCamera":
        """What `to_json` made. Raises KeyError, TypeError or ValueError where it is none."""
        intrinsics, view = (np.array(content[key], float).reshape(3, 3) for key in ("intrinsics", "view"))
        (width, height), (columns, rows) = content["photo_size"], content["size"]
        for matrix in (intrinsics, view):
            if not np.isfinite(matrix).all() or np.linalg.det(matrix) <= 0:
                raise ValueError("a matrix is not invertible")
        if min(width, height, columns, rows) < 1:
            raise ValueError("a size is below one pixel")
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
