"""`carpose.predict photos` with files that cannot be used: one line, before any network runs.

Photos of unusual contents are in test_data_folder.py, which the same function decodes.
"""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from carpose.core import cars
from carpose.predict import __main__ as predict
from carpose.predict import photos as command
from tests.bad_input.damage import (
    Case,
    as_folder,
    cases,
    contents,
    fifo,
    link,
    one_error,
    recode,
    remove,
    write,
)
from tests.bad_input.test_checkpoint import CAMERA
from tests.bad_input.test_data_folder import header_of
from tests.predict.small import checkpoint

INTRINSICS = "camera.txt"


def resized(name: str, size: tuple[int, int]):
    return lambda folder: Image.open(folder / name).resize(size).save(folder / name)


def all_photos(size: tuple[int, int]):
    return lambda folder: [resized(f"photos/{name}.jpg", size)(folder) for name in "ab"]


def camera(fx, fy, cx, cy):
    return write(INTRINSICS, f"fx = {fx}\nfy = {fy}\ncx = {cx}\ncy = {cy}\n")


PHOTOS = [
    Case("own photo without a byte", write("photos/b.jpg", b""), r"photos/b.jpg: empty"),
    Case(
        "own photo cut off", recode("photos/b.jpg", lambda c: c[:-300]), r"photos/b.jpg: (unreadable|damaged)"
    ),
    Case("own photo that is text", write("photos/b.jpg", "no"), r"photos/b.jpg: not a picture"),
    Case(
        "own photo of HEIC", write("photos/b.jpg", b"\0\0\0\x18ftypheic" + bytes(99)), r"b.jpg: not a picture"
    ),
    Case(
        "own photo of 200 megapixels",
        write("photos/c.png", header_of(20000, 10000)),
        r"c.png: of 20000×10000",
    ),
    Case("own photo that links to nothing", link("photos/b.jpg", "nowhere"), r"photos/b.jpg: .*missing"),
    Case("own photo that links to itself", link("photos/b.jpg", "b.jpg"), r"photos/b.jpg: .*Too many levels"),
    Case("own photo that is a pipe", fifo("photos/b.jpg"), r"photos/b.jpg: not a file"),
    Case("own photo that is a folder", as_folder("photos/b.jpg"), r"photos/b.jpg: not a file"),
    Case(
        "own photos of two sizes", resized("photos/b.jpg", (160, 120)), r"b.jpg: is 160×120 pixels, .*338×271"
    ),
    Case("own photo turned", resized("photos/b.jpg", (271, 338)), r"b.jpg: is 271×338 pixels"),
    Case("own photos of one pixel", all_photos((1, 1)), r"photos of 1×1 pixels"),
    Case(
        "two files of one name",
        lambda f: shutil.copy(f / "photos/a.jpg", f / "photos/a.jpeg"),
        r"both would be image a",
    ),
    Case(
        "no photo in the folder",
        lambda f: [path.unlink() for path in (f / "photos").iterdir()],
        r"there is no photo",
    ),
    Case(
        "hidden files alone",
        lambda f: [p.rename(p.with_name(f".{p.name}")) for p in (f / "photos").iterdir()],
        r"photos: there is no photo in this folder",
    ),
    Case(
        "no folder of photos",
        lambda f: shutil.rmtree(f / "photos"),
        r"photos: there is no such file or folder",
    ),
]
CAMERAS = [
    Case(
        "own intrinsics are missing", remove(INTRINSICS), r"camera.txt: cannot read the camera's intrinsics"
    ),
    Case("own intrinsics of zeros", camera(0, 0, 0, 0), r"camera.txt: fx and fy must be above zero"),
    Case("own intrinsics that are no numbers", camera("nan", 230, 168, 135), r"camera.txt: .*must be finite"),
    Case(
        "own intrinsics of a tele lens", camera(90000, 90000, 168, 135), r"show nothing|are too small|camera"
    ),
    Case(
        "own principal point far away", camera(230, 230, 99999, 135), r"show nothing of the network's input"
    ),
    Case(
        "own focal length in millimetres",
        camera(3.5, 3.5, 168, 135),
        r"are too small for|are no focal lengths",
    ),
    Case("own checkpoint is missing", remove("model.pt"), r"model.pt: file not found"),
    Case("own checkpoint without a byte", write("model.pt", b""), r"model.pt: not a checkpoint"),
]


@pytest.fixture(scope="module")
def valid(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("own")
    checkpoint(folder / "model.pt", {"camera": CAMERA})
    (folder / "photos").mkdir()
    for number, name in enumerate("ab"):
        pixels = np.random.default_rng(number).integers(0, 255, (27, 34, 3), np.uint8)
        Image.fromarray(pixels).resize((338, 271)).save(folder / "photos" / f"{name}.jpg")
    camera(230, 230, 168, 135)(folder)
    return folder


@pytest.fixture
def folder(valid, tmp_path) -> Path:
    return Path(shutil.copytree(valid, tmp_path / "own"))


def run_photos(run, folder: Path, *more, output: str = "cars.csv"):
    files = ("--checkpoint", folder / "model.pt", "--photos", folder / "photos")
    options = (
        "--intrinsics",
        folder / INTRINSICS,
        "--output",
        folder / output,
        "--gpus",
        0,
        "--flip",
        "false",
    )
    return run(predict.main, "photos", *files, *options, "--tta-rotations-deg", 0, 0, 0, *more)


@cases(PHOTOS, CAMERAS)
def test_what_cannot_be_used_is_named(case, folder, run, monkeypatch):
    def never(*_, **__):
        raise AssertionError("a network ran")

    monkeypatch.setattr(command, "predict_members", never)
    case.damage(folder)
    before = contents(folder)
    one_error(run_photos(run, folder), case.message)
    assert contents(folder) == before, "no output is left"


@pytest.mark.parametrize(
    "name", ["my photo", "Straße", "it's", 'a"b', "a,b", "a\nb", "写真", "<b>", "-x", "%s{0}"]
)
def test_photos_may_have_any_name(name, folder, run):
    """It is the ImageId, in a table that reads back."""
    (folder / "photos" / "b.jpg").rename(folder / "photos" / f"{name}.jpg")
    done = run_photos(run, folder, "--threshold", 0.0001)
    assert done.status == 0, done
    assert set(cars.read_csv(folder / "cars.csv")["ImageId"]) <= {"a", name}


def test_outputs_that_cannot_be_written_are_named_before_the_photos_are_read(folder, run, monkeypatch):
    monkeypatch.setattr(command, "check_photos", lambda *_: pytest.fail("the photos were read"))
    for output, message in (
        ("cars.txt", r"cars.txt: name it .csv or .parquet"),
        ("photos.csv", r"photos.csv: is a folder"),
        ("camera.txt/cars.csv", r"camera.txt: (File exists|Not a directory)"),
        ("a" * 300 + ".csv", r"File name too long|aaa"),
    ):
        (folder / "photos.csv").mkdir(exist_ok=True)
        before = contents(folder)
        done = run_photos(run, folder, output=output)
        if output.startswith("aaa") and done.status == 2:
            assert "Traceback" not in done.err
            continue
        one_error(done, message)
        assert contents(folder) == before
