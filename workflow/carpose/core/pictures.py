"""The one reader of pictures (photos and masks). Pixels are read as they are stored and EXIF's orientation is
ignored, because the labels are for the pixels of the camera.
"""

import os
import re
import tempfile
from pathlib import Path

import cv2
import numpy as np

from .errors import UserError

AS_STORED = cv2.IMREAD_IGNORE_ORIENTATION
DAMAGED = ("Corrupt JPEG data", "Premature end")  # libjpeg's warnings of lost pixels, which become grey
EXTRANEOUS = re.compile(r"Corrupt JPEG data: (\d+) extraneous bytes before marker 0xd9")
MAX_PADDING = 16  # bytes, all the same, that some cameras write after the last pixel


def read(path: str | Path, grey: bool = False) -> np.ndarray:
    """(H, W, 3) uint8 RGB, or (H, W) uint8 if grey. Raises UserError where it cannot be read."""
    try:
        picture = cv2.imread(str(path), AS_STORED | (cv2.IMREAD_GRAYSCALE if grey else cv2.IMREAD_COLOR))
    except cv2.error:  # a header with an impossible size
        picture = None
    if picture is None:
        raise UserError(f"{path}: cannot be read as a picture; is the file missing or damaged?")
    return picture if grey else cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)


def damage(content: bytes) -> str:
    """The damage inside a picture file of this content, which `read` may return nevertheless; "" if none.

    libjpeg reports lost pixels on stderr only. The process's stderr is redirected meanwhile, so call this in
    a process that does nothing else. The picture is decoded at an eighth of its size, which reads every byte.
    """
    with tempfile.TemporaryFile() as captured:
        stderr = os.dup(2)
        os.dup2(captured.fileno(), 2)
        try:
            flags = AS_STORED | cv2.IMREAD_REDUCED_GRAYSCALE_8
            decoded = cv2.imdecode(np.frombuffer(content, np.uint8), flags)
        except cv2.error:
            decoded = None
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
        captured.seek(0)
        lines = [line.strip() for line in captured.read().decode(errors="replace").splitlines()]
    warnings = [line for line in lines if line.startswith(DAMAGED) and not _is_padding(line, content)]
    return warnings[0] if warnings else "OpenCV cannot decode it" if decoded is None else ""


def _is_padding(warning: str, content: bytes) -> bool:
    extraneous = EXTRANEOUS.fullmatch(warning)
    if extraneous is None or int(extraneous[1]) > MAX_PADDING:
        return False
    return len(set(content[: content.rfind(b"\xff\xd9")][-int(extraneous[1]) :])) == 1
