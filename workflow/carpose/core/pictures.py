"""The one reader of pictures. Pixels are read as they are stored: the labels are for the camera's own pixels,
so what a file says in EXIF about turning them for a viewer does not count.
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
LEFT = re.compile(r"Corrupt JPEG data: (\d+) extraneous bytes before marker 0xd9")
PADDING = 16  # bytes, all the same, that some cameras write behind the last pixel


def read(path: str | Path, grey: bool = False) -> np.ndarray:
    """(H, W, 3) uint8 RGB, or (H, W) grey. Raises UserError where it cannot be read."""
    try:
        picture = cv2.imread(str(path), AS_STORED | (cv2.IMREAD_GRAYSCALE if grey else cv2.IMREAD_COLOR))
    except cv2.error:  # of a size that nothing can hold
        picture = None
    if picture is None:
        raise UserError(f"{path}: cannot be read as a picture; is it there and whole?")
    return picture if grey else cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)


def damage(content: bytes) -> str:
    """What is wrong inside a file with this content, though `read` gives a picture; "" if nothing is.

    libjpeg says on stderr alone that something is lost. This listens there, so it is for a process that does
    nothing else meanwhile. Decoded at an eighth of the size, which still reads every byte.
    """
    with tempfile.TemporaryFile() as heard:
        stderr = os.dup(2)
        os.dup2(heard.fileno(), 2)
        try:
            flags = AS_STORED | cv2.IMREAD_REDUCED_GRAYSCALE_8
            small = cv2.imdecode(np.frombuffer(content, np.uint8), flags)
        except cv2.error:
            small = None
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
        heard.seek(0)
        lines = [line.strip() for line in heard.read().decode(errors="replace").splitlines()]
    warnings = [line for line in lines if line.startswith(DAMAGED) and not _is_padding(line, content)]
    return warnings[0] if warnings else "OpenCV cannot decode it" if small is None else ""


def _is_padding(warning: str, content: bytes) -> bool:
    left = LEFT.fullmatch(warning)
    if left is None or int(left[1]) > PADDING:
        return False
    return len(set(content[: content.rfind(b"\xff\xd9")][-int(left[1]) :])) == 1
