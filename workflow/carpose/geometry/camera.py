"""The camera mapping between metres and pixels. All other modules use these functions.

Frames: the camera (x right, y down, z forward, metres); photo pixels (u right, v down, centre of the
first pixel at 0, 0); network pixels; cells of the output maps. A *view* is a 3×3 matrix from photo
pixels to network pixels: the product of crop, padding, resize and augmentation. K being the photo's
intrinsics, `view @ K` are those of the network's input and `cells(stride) @ view @ K` of its output maps.
"""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from carpose.core.errors import UserError
from carpose.core.files import truncate

# The data set's camera: width and height of its photos in pixels, and K of its camera_intrinsic.txt.
PHOTO_SIZE = (3384, 2710)
INTRINSICS = np.array([[2304.5479, 0, 1686.2379], [0, 2305.8757, 1354.9849], [0, 0, 1]])


def intrinsics_file(folder: Path) -> Path:
    """The path of `camera_intrinsic.txt` in a folder of the competition's layout."""
    return folder / "camera" / "camera_intrinsic.txt"


def read_intrinsics(path: str | Path) -> np.ndarray:
    """`camera_intrinsic.txt` (lines `fx = 2304.5479`, fy, cx, cy, in pixels) → 3×3 matrix K.

    Raises UserError with the file and the line or the missing key.
    """
    values: dict[str, float] = {}
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise UserError(f"{path}: cannot read the camera's intrinsics ({error.strerror})") from error
    except UnicodeDecodeError:
        raise UserError(f"{path}: is not a text file with lines `name = number`") from None
    for number, line in enumerate(lines, 1):
        key, _, value = line.partition("=")
        if not line.strip():
            continue
        if key.strip() in values:
            raise UserError(f"{path}, line {number}: {key.strip()} occurs twice; keep one of them")
        try:
            values[key.strip()] = float(value.strip().rstrip(";"))
        except ValueError:
            text = f"expected `name = number`, found {truncate(line)!r}"
            raise UserError(f"{path}, line {number}: {text}") from None
    missing = [key for key in ("fx", "fy", "cx", "cy") if key not in values]
    if missing:
        raise UserError(f"{path}: {', '.join(missing)} missing; the file needs fx, fy, cx and cy")
    fx, fy, cx, cy = (values[key] for key in ("fx", "fy", "cx", "cy"))
    if not np.isfinite([fx, fy, cx, cy]).all():
        raise UserError(f"{path}: fx, fy, cx and cy must be finite numbers")
    if min(fx, fy) <= 0:
        raise UserError(f"{path}: fx and fy must be above zero")
    return np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])


def project(intrinsics: np.ndarray, xyz: np.ndarray) -> np.ndarray:
    """(..., 3) metres, camera frame → (..., 2) pixels. Points need z > 0.

    intrinsics: 3×3, or (..., 3, 3) with one matrix per point.
    """
    intrinsics = np.asarray(intrinsics)
    if intrinsics.ndim == 2:
        image = np.asarray(xyz, float) @ intrinsics.T
    else:
        image = np.einsum("...ij,...j->...i", intrinsics, xyz)
    return image[..., :2] / image[..., 2:]


def backproject(intrinsics: np.ndarray, pixels: np.ndarray, z: np.ndarray) -> np.ndarray:
    """(..., 2) pixels and (...) depths z in metres → (..., 3) metres, camera frame. intrinsics: 3×3."""
    pixels = np.asarray(pixels, float)
    homogeneous = np.concatenate([pixels, np.ones_like(pixels[..., :1])], axis=-1)
    rays = homogeneous @ np.linalg.inv(intrinsics).T
    return rays / rays[..., 2:] * np.asarray(z)[..., None]


def crop_and_resize(photo_size: tuple[int, int], crop: Sequence[float], size: tuple[int, int]) -> np.ndarray:
    """The view (3×3) that scales a rectangle of the photo to the network's input.

    photo_size: width, height of the photo; crop: left, top, right, bottom as fractions of the photo
    (below 0 or above 1 pads); size: width, height of the network's input.
    """
    left, top, right, bottom = crop
    sx = size[0] / ((right - left) * photo_size[0])
    sy = size[1] / ((bottom - top) * photo_size[1])
    # Pixel i covers i−½ … i+½.
    x0, y0 = left * photo_size[0] - 0.5, top * photo_size[1] - 0.5
    return np.array([[sx, 0, -sx * x0 - 0.5], [0, sy, -sy * y0 - 0.5], [0, 0, 1]])


def crop_of(view: np.ndarray, photo_size: tuple[int, int], size: tuple[int, int]) -> tuple[float, ...]:
    """The inverse of `crop_and_resize`: its crop (left, top, right, bottom as fractions) for this view (3×3).

    photo_size, size: width, height of the photo and of the network's input.
    """
    corners = np.array([[-0.5, -0.5], [size[0] - 0.5, size[1] - 0.5]])
    on_photo = project(np.linalg.inv(view), np.column_stack([corners, np.ones(2)]))
    return tuple(((on_photo + 0.5) / photo_size).ravel().tolist())


def magnify_top(size: tuple[int, int], strength: float) -> np.ndarray:
    """A perspective warp (3×3) of the network's input that enlarges the top, where distant cars are.

    At the top, heights grow by a factor of 1 + strength and widths stay; at the bottom both shrink by this
    factor. Nothing is cut off. size: width, height of the input in pixels.
    """
    width, height = size
    slope, centre = strength / height, (width - 1) / 2
    return np.array([[1, slope * centre, 0], [0, 1 + strength, 0], [0, slope, 1]])


def visible_part(crop: Sequence[float], perspective: float = 0.0) -> tuple[float, float, float, float]:
    """The smallest rectangle of the photo that holds all that a view of this crop shows of it.

    crop, result: left, top, right, bottom as fractions of the photo; perspective: strength of `magnify_top`.
    """
    left, top, right, bottom = crop
    # The sides are straight lines, 1 + perspective times as far apart at the view's bottom as at its top.
    shown_rows = (min(bottom, 1.0) - top) / (bottom - top)
    margin = perspective * max(shown_rows, 0.0) * (right - left) / 2
    edges = left - margin, top, right + margin, bottom
    left, top, right, bottom = (min(max(edge, 0.0), 1.0) for edge in edges)
    return left, top, right, bottom


def lies_within(part: Sequence[float], crop: Sequence[float]) -> bool:
    """Whether a rectangle lies in another; both left, top, right, bottom as fractions of a photo."""
    beyond = [crop[0] - part[0], crop[1] - part[1], part[2] - crop[2], part[3] - crop[3]]
    return max(beyond) < 1e-6


def format_rectangle(part: Sequence[float]) -> str:
    """A rectangle of fractions for a message, rounded outwards to four digits."""
    rounded = [
        f(round(edge * 1e4, 3)) / 1e4
        for f, edge in zip([math.floor] * 2 + [math.ceil] * 2, part, strict=True)
    ]
    return f"[{', '.join(f'{edge:g}' for edge in rounded)}]"


def cells(stride: int) -> np.ndarray:
    """3×3: network pixels → cells of the output maps. Cell c covers pixels c·stride … c·stride+stride−1."""
    half = 0.5 / stride - 0.5
    return np.array([[1 / stride, 0, half], [0, 1 / stride, half], [0, 0, 1]])


def focal(intrinsics: np.ndarray) -> np.ndarray:
    """Intrinsics (..., 3, 3) → (...) focal length √(fx·fy) in pixels: apparent size is size·focal/depth.

    It is the square root of the determinant, which a zoom by f multiplies by f², also if the view has a
    perspective warp.
    """
    return np.sqrt(np.linalg.det(intrinsics))
