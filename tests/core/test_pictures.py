"""Pictures are read as they are stored, and damage inside one is reported."""

import sys

import numpy as np
import pytest
from PIL import ExifTags, Image

from carpose.core import pictures
from carpose.core.errors import UserError

HALVES = np.zeros((48, 64, 3), np.uint8)
HALVES[:24, :, 0] = 250  # red above, black below


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_pixels_are_read_as_they_are_stored(tmp_path, kind, orientation):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    Image.fromarray(HALVES).save(tmp_path / "a.jpg", kind, exif=exif)
    picture = pictures.read(tmp_path / "a.jpg")
    assert picture.shape == HALVES.shape and picture.dtype == np.uint8
    assert np.abs(picture.astype(int) - HALVES)[[5, -5]].max() < 10
    grey = pictures.read(tmp_path / "a.jpg", grey=True)
    assert grey.shape == (48, 64) and grey[5].min() > 60 and grey[-5].max() < 10


@pytest.mark.parametrize("content", [None, b"", b"<html>"])
def test_a_file_that_is_not_a_picture_is_an_error(tmp_path, content):
    path = tmp_path / "a.jpg"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match="a.jpg: cannot be read as a picture"):
        pictures.read(path)


def test_damage_restores_stderr(tmp_path, capfd):
    Image.fromarray(HALVES).save(tmp_path / "a.jpg", quality=95)
    content = (tmp_path / "a.jpg").read_bytes()
    assert pictures.damage(content) == ""
    assert "premature end" in pictures.damage(content[:-60] + b"\xff\xd9")
    assert capfd.readouterr().err == ""
    print("printed", file=sys.stderr)
    assert capfd.readouterr().err == "printed\n"
