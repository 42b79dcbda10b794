"""A damaged data folder: the check names the culprit, and writes no table that a training could read."""

import csv
import gzip
import io
import re
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from carpose.core import cars, pictures
from carpose.core.errors import UserError
from carpose.geometry import camera
from carpose.kaggle import __main__ as kaggle
from carpose.kaggle import photos
from carpose.kaggle.identity import data_identity
from carpose.kaggle.tables import LABEL, parse, read_labels, read_sample
from tests.bad_input.damage import (
    Case,
    as_folder,
    cases,
    contents,
    fifo,
    link,
    move,
    recode,
    remove,
    replace,
    write,
)

TRAIN, SAMPLE, INTRINSICS = "train.csv", "sample_submission.csv", "camera/camera_intrinsic.txt"
PHOTO, MASK = "train_images/ID_1.jpg", "train_masks/ID_3.jpg"


def token(number: int, value: str, line: int = 2) -> Callable[[Path], object]:
    """In train.csv, this token of the cars in a line, both counted from 1."""

    def change(folder: Path) -> None:
        lines = (folder / TRAIN).read_text().splitlines()
        image_id, _, text = lines[line - 1].partition(",")
        tokens = text.split()
        tokens[number - 1] = value
        lines[line - 1] = f"{image_id},{' '.join(tokens)}"
        (folder / TRAIN).write_text("\n".join(lines) + "\n")

    return change


def every_car(function: Callable[[list[str]], list[str]]) -> Callable[[Path], object]:
    """train.csv with the numbers of every car changed by a function."""

    def change(folder: Path) -> None:
        header, *lines = (folder / TRAIN).read_text().splitlines()
        rows = []
        for line in lines:
            image_id, _, text = line.partition(",")
            tokens = text.split()
            cars = [tokens[i : i + 7] for i in range(0, len(tokens), 7)]
            rows.append((image_id, " ".join(number for car in cars for number in function(car))))
        buffer = io.StringIO()
        csv.writer(buffer, lineterminator="\n").writerows(rows)
        (folder / TRAIN).write_text(f"{header}\n{buffer.getvalue()}")

    return change


def scaled(factor: float) -> Callable[[Path], object]:
    """Positions in another unit."""
    return every_car(lambda car: [*car[:4], *(str(factor * float(v)) for v in car[4:])])


def renamed(new: str, photo: bool = True) -> Callable[[Path], object]:
    """The image ID_0 under another ImageId, with its photo if the name can be one."""

    def change(folder: Path) -> None:
        replace(TRAIN, "ID_0,", f"{new},")(folder)
        if photo:
            move("train_images/ID_0.jpg", f"train_images/{new}.jpg")(folder)

    return change


def add(text: str) -> Callable[[bytes], bytes]:
    return lambda content: content + text.encode()


NUMBERS = [
    Case("not a number", token(7, "nan"), r"train.csv, line 2, image ID_0: token 7 \(z of car 1\) 'nan'"),
    Case("infinite", token(5, "-inf"), r"train.csv, line 2, image ID_0: token 5 .x of car 1. '-inf'"),
    Case("overflow", token(6, "1e400"), r"line 2, image ID_0: token 6 .y of car 1. '1e400' is not finite"),
    Case("huge position", token(5, "1e12"), r"line 2, image ID_0: a car at x, y, z = 1e\+12, .*10 km"),
    Case("huge angle", token(3, "1e9"), r"line 2, image ID_0: .*yaw, roll = 0.15, 1e\+09, .* full turn"),
    Case("huge model type", token(1, "99999999999"), r"line 2, image ID_0: token 1 .*not an integer"),
    Case("hexadecimal", token(7, "0x10"), r"line 2, image ID_0: token 7 .*'0x10' is not a number"),
    Case("a unit", token(7, "16m"), r"line 2, image ID_0: token 7 .*'16m' is not a number"),
    Case("letter O", token(7, "1O.5"), r"line 2, image ID_0: token 7 .*'1O.5' is not a number"),
    Case("minus sign of typesetters", token(3, "−1.5"), r"line 2, image ID_0: token 3 .*digits 0 to 9"),
    Case("zero depth", token(7, "0"), r"line 2, image ID_0: a car with z = 0 m is not in front"),
    Case("negative depth", token(14, "-20"), r"line 2, image ID_0: a car with z = -20 m is not in front"),
    Case("six numbers per car", every_car(lambda car: car[1:]), r"line 2, image ID_0: 18 numbers, .*of 7"),
    Case("eight numbers per car", every_car(lambda car: [*car, "1"]), r"ID_0: 24 numbers, .* multiple of 7"),
    Case("a number is missing", token(7, ""), r"line 2, image ID_0: 20 numbers, which is not a multiple"),
    Case(
        "six numbers of seven cars",
        write(TRAIN, "ImageId,PredictionString\nID_0," + "0.15 1.5 -3.1 2 4 16 " * 7),
        r"line 2, image ID_0: token 1 \(model_type of car 1\) '0.15' is not an integer",
    ),
    Case(
        "eight numbers of seven cars",
        write(TRAIN, "ImageId,PredictionString\nID_0," + "16 0.15 1.5 -3.1 2 4 16 1 " * 7),
        r"line 2, image ID_0: token 36 \(model_type of car 6\) '-3.1' is not an integer",
    ),
    Case(
        "pitch and yaw swapped",
        every_car(lambda car: [car[0], car[2], car[1], *car[3:]]),
        r"train.csv: the angles seem to be in the order yaw pitch roll; write .* pitch yaw roll x",
    ),
    Case("one tilted car", token(2, "1.4"), r"line 2, image ID_0: a car with pitch = 1.40", "warning"),
    Case(
        "degrees",
        every_car(lambda car: [car[0], *(str(57.3 * float(v)) for v in car[1:4]), *car[4:]]),
        r"line 2, image ID_0: .*beyond a full turn; .*radians",
    ),
    Case(
        "y upwards",
        every_car(lambda car: [*car[:5], f"-{car[5]}", car[6]]),
        r"train.csv: 100% of the cars are above the camera .*y points down",
        "warning",
    ),
    Case(
        "y and z swapped",
        every_car(lambda car: [*car[:5], car[6], car[5]]),
        r"train.csv: only 0 of 12 cars are inside their photos of 160×120 pixels; check the order x y z",
    ),
    Case(
        "millimetres", scaled(1000), r"train.csv: the median z of the cars is 22\d\d\d; give x, y and z in m"
    ),
    Case(
        "centimetres",
        scaled(100),
        r"train.csv: the median z of the cars is 22\d\d; give x, y and z in metres",
    ),
    Case(
        "kilometres", scaled(0.001), r"train.csv: the median z of the cars is 0.022\d*; give x, y and z in m"
    ),
    Case(
        "a car twice",
        lambda folder: write(TRAIN, re.sub(r"ID_0,(.*)", r"ID_0,\1 \1", (folder / TRAIN).read_text()))(
            folder
        ),
        r"line 2, image ID_0: .*occurs twice",
        "warning",
    ),
]
FORMATS = [
    Case(
        "decimal comma",
        every_car(lambda car: [number.replace(".", ",") for number in car]),
        r"line 2, image ID_0: token 2 .*'0,15' is not a number.*decimal point",
    ),
    Case(
        "decimal comma without quotation marks",
        recode(TRAIN, lambda content: content.replace(b".", b",")),
        r"line 2, image ID_0: 20 columns",
    ),
    Case(
        "semicolons",
        recode(TRAIN, lambda content: content.replace(b",", b";")),
        r"train.csv: line 1: header ImageId,PredictionString expected, found 'ImageId;PredictionString'",
    ),
    Case("tabs", recode(TRAIN, lambda content: content.replace(b",", b"\t")), r"train.csv: line 1: header"),
    Case("lines end as on Windows", recode(TRAIN, lambda content: content.replace(b"\n", b"\r\n")), "", ""),
    Case("lines end as on old Macs", recode(TRAIN, lambda content: content.replace(b"\n", b"\r")), "", ""),
    Case("no last line end", recode(TRAIN, bytes.rstrip), "", ""),
    Case("byte order mark", recode(TRAIN, lambda content: b"\xef\xbb\xbf" + content), "", ""),
    Case("tabs between numbers", recode(TRAIN, lambda content: content.replace(b" ", b"\t")), "", ""),
    Case(
        "all fields in quotation marks",
        lambda folder: write(TRAIN, re.sub(r"(ID_.),(.*)", r'"\1","\2"', (folder / TRAIN).read_text()))(
            folder
        ),
        "",
        "",
    ),
    Case("empty file", write(TRAIN, b""), r"train.csv: line 1: header .* expected, found ''"),
    Case("empty sample", write(SAMPLE, b""), r"sample_submission.csv: line 1: header"),
    Case("only line ends", write(TRAIN, b"\n\n\n"), r"train.csv: line 1: header"),
    Case("header alone", write(TRAIN, "ImageId,PredictionString\n"), r"train.csv: has no car to learn from"),
    Case(
        "sample of a header alone",
        write(SAMPLE, "ImageId,PredictionString\n"),
        r"sample_submission.csv: has no image to predict",
    ),
    Case("no header", recode(TRAIN, lambda content: content.partition(b"\n")[2]), r"train.csv: line 1: head"),
    Case("header in other case", replace(TRAIN, "ImageId", "imageid"), r"train.csv: line 1: header"),
    Case(
        "columns swapped",
        replace(TRAIN, "ImageId,PredictionString", "PredictionString,ImageId"),
        r"train.csv: line 1: header",
    ),
    Case(
        "header twice",
        recode(TRAIN, lambda content: b"ImageId,PredictionString\n" + content),
        r"train.csv, line 2, image ImageId: token 1 .*'PredictionString'|1 numbers",
    ),
    Case(
        "UTF-16",
        recode(TRAIN, lambda content: content.decode().encode("utf-16")),
        r"train.csv: is not a CSV text file",
    ),
    Case(
        "UTF-16 without a mark",
        recode(TRAIN, lambda content: content.decode().encode("utf-16-le")),
        r"train.csv: line 1: header",
    ),
    Case(
        "Latin-1",
        recode(TRAIN, lambda content: content.replace(b"ID_0", b"ID_\xe9")),
        r"train.csv: is not a CSV text file",
    ),
    Case("gzip", recode(TRAIN, gzip.compress), r"train.csv: is not a CSV text file"),
    Case("a spreadsheet", write(TRAIN, b"PK\x03\x04\x14\0\6\0\x08\0"), r"train.csv: line 1: header"),
    Case(
        "zeros after a crash",
        recode(TRAIN, lambda content: content[:60] + bytes(len(content) - 60)),
        r"train.csv, line 2, image ID_0",
    ),
    Case("an error page", write(TRAIN, "<!DOCTYPE html>\n<html>404</html>"), r"train.csv: line 1: header"),
    Case("a folder as table", as_folder(TRAIN), r"train.csv: cannot be read \(Is a directory\)"),
    Case("table is missing", remove(TRAIN), r"train.csv: cannot be read \(No such file or directory\)"),
    Case("sample is missing", remove(SAMPLE), r"sample_submission.csv: cannot be read \(No such file"),
    Case("a table that links to itself", link(TRAIN, TRAIN), r"train.csv: cannot be read \(Too many levels"),
    Case("a table that is a pipe", fifo(TRAIN), r"train.csv: .*not a file"),
    Case(
        "labels as sample",
        lambda folder: write(SAMPLE, (folder / TRAIN).read_bytes())(folder),
        r"sample_submission.csv, line 2, image ID_0: is also in train.csv",
    ),
    Case(
        "sample as labels",
        lambda folder: write(TRAIN, (folder / SAMPLE).read_bytes())(folder),
        r"train.csv, line 2, image ID_t0: token 1 .*not an integer",
    ),
]
IMAGE_IDS = [
    Case(
        "a row twice",
        lambda folder: recode(TRAIN, add((folder / TRAIN).read_text().splitlines()[1]))(folder),
        r"train.csv, line 6, image ID_0: the ImageId occurs twice",
    ),
    Case("a test image twice", recode(SAMPLE, add("ID_t1,\n")), r"csv, line 4, image ID_t1: .* occurs twice"),
    Case("in both tables", recode(SAMPLE, add("ID_2,\n")), r"line 4, image ID_2: is also in train.csv"),
    Case(
        "ids that differ by case",
        lambda folder: (
            recode(TRAIN, add("id_0,16 0.15 1 -3.1 2 4.2 17\n"))(folder),
            write("train_images/id_0.jpg", (folder / PHOTO).read_bytes())(folder),
        ),
        r"line 6, image id_0: differs from ID_0 in case only",
        "warning",
    ),
    Case("a slash", renamed("a/b", photo=False), r"line 2, image a/b: invalid ImageId 'a/b'"),
    Case("a backslash", renamed("a\\b"), r"line 2, image a.*: invalid ImageId"),
    Case("the folder above", renamed("..", photo=False), r"line 2, image ..: invalid ImageId '..'"),
    Case("an absolute path", renamed("/etc/passwd", photo=False), r"invalid ImageId '/etc/passwd'"),
    Case("HTML", renamed("<b>x<b>"), r"line 2, image <b>x<b>: invalid ImageId '<b>x<b>'"),
    Case("a command", renamed("$(reboot)"), r"line 2, image \$\(reboot\): invalid ImageId"),
    Case("an option", renamed("-rf"), r"line 2, image -rf: invalid ImageId '-rf'"),
    Case("a format", renamed("{0.__class__}"), r"line 2, image \{0.__class__\}: invalid ImageId"),
    Case("a bell", renamed("a\ab"), r"line 2, image a.*: invalid ImageId 'a\\x07b'"),
    Case("an umlaut", renamed("ID_ä"), r"line 2, image ID_ä: invalid ImageId"),
    Case("a hidden file", renamed(".ID"), r"line 2, image .ID: invalid ImageId"),
    Case(
        "with its suffix",
        renamed("ID_0.jpg", photo=False),
        r"image ID_0.jpg: photo missing.*there is ID_0.jpg.*without .jpg",
    ),
    Case("longer than a file name may be", renamed("a" * 300, photo=False), r"image a+…: photo .*too long"),
    Case("a word that pandas takes for NaN", renamed("NA"), "", ""),
    Case("a number", renamed("007"), "", ""),
]


def header_of(width: int, height: int) -> bytes:
    """A PNG file that claims this size."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b""))
        + chunk(b"IEND", b"")
    )


def saved(
    name: str, mode: str = "RGB", size: tuple[int, int] | None = None, **options
) -> Callable[[Path], object]:
    """The picture in another mode, size or format."""

    def change(folder: Path) -> None:
        picture = Image.open(folder / name).convert("RGB")
        picture = picture.resize(size) if size else picture
        if mode == "I;16":
            picture = Image.fromarray(np.asarray(picture.convert("L")).astype(np.uint16) * 257)
        else:
            picture = picture.convert(mode)
        picture.save(folder / name, **{"format": "JPEG"} | options)

    return change


def all_photos(damage: Callable[[str], Callable[[Path], object]]) -> Callable[[Path], object]:
    """Damages every photo; the masks go."""

    def change(folder: Path) -> None:
        for path in [*folder.glob("*_images/*")]:
            damage(str(path.relative_to(folder)))(folder)
        (folder / MASK).unlink()

    return change


PHOTOS = [
    Case("no byte", write(PHOTO, b""), r"ID_1.jpg, image ID_1: photo empty"),
    Case(
        "the first bytes alone", recode(PHOTO, lambda content: content[:200]), r"ID_1.jpg, image ID_1: photo"
    ),
    Case(
        "zeros at the end", recode(PHOTO, lambda content: content[:-900] + bytes(900)), r"image ID_1: photo"
    ),
    Case("zeros alone", recode(PHOTO, lambda content: bytes(len(content))), r"ID_1: photo not a picture"),
    Case(
        "a pointer of Git LFS", write(PHOTO, "version https://git-lfs.github.com/spec/v1\n"), r"not a picture"
    ),
    Case("raw pixels", write(PHOTO, bytes(range(256)) * 100), r"image ID_1: photo not a picture"),
    Case("an SVG", write(PHOTO, '<svg xmlns="http://www.w3.org/2000/svg"/>'), r"ID_1: photo not a picture"),
    Case("CMYK", saved(PHOTO, "CMYK"), "", ""),
    Case("greyscale", saved(PHOTO, "L"), "", ""),
    Case("16 bits", saved(PHOTO, "I;16", format="PNG"), "", ""),
    Case("PNG named .jpg", saved(PHOTO, format="PNG"), "", ""),
    Case("transparency", saved(PHOTO, "RGBA", format="PNG"), "", ""),
    Case("palette", saved(PHOTO, "P", format="PNG"), "", ""),
    Case("one bit per pixel", saved(PHOTO, "1", format="PNG"), "", ""),
    Case("one pixel", saved(PHOTO, size=(1, 1)), r"ID_1.jpg, image ID_1: photo of 1×1 pixels, the others"),
    Case(
        "all of one pixel",
        all_photos(lambda name: saved(name, size=(1, 1))),
        r"camera_intrinsic.txt: cx, cy = .* far from the centre of photos of 1×1",
    ),
    Case("200 megapixels", write(PHOTO, header_of(20000, 10000)), r"image ID_1: photo .*20000×10000 pixels"),
    Case("100 megapixels", write(PHOTO, header_of(10000, 10000)), r"ID_1: photo (unreadable|damaged|of 1)"),
    Case("a negative size", write(PHOTO, header_of(2**31, 2**31)), r"image ID_1: photo"),
    Case("no width", write(PHOTO, header_of(0, 120)), r"image ID_1: photo"),
    Case("half the size", saved(PHOTO, size=(80, 60)), r"image ID_1: photo of 80×60 pixels, .*160×120"),
    Case(".JPG", move(PHOTO, "train_images/ID_1.JPG"), r"ID_1: photo missing.*there is ID_1.JPG.*rename"),
    Case(".jpeg", move(PHOTO, "train_images/ID_1.jpeg"), r"ID_1: photo missing.*there is ID_1.jpeg.*rename"),
    Case(".png", move(PHOTO, "train_images/ID_1.png"), r"ID_1: photo missing.*there is ID_1.png"),
    Case(
        "another case of letters", move(PHOTO, "train_images/id_1.jpg"), r"photo missing.*there is id_1.jpg"
    ),
    Case("a folder as photo", lambda folder: as_folder(PHOTO)(folder), r"image ID_1: photo .*not a file"),
    Case("a photo that links to itself", link(PHOTO, "ID_1.jpg"), r"ID_1: photo .*Too many levels of symb"),
    Case("a link to nothing", link(PHOTO, "nowhere.jpg"), r"ID_1.jpg, image ID_1: photo missing"),
    Case("a photo that is a pipe", fifo(PHOTO), r"ID_1.jpg, image ID_1: photo .*not a file"),
    Case(
        "photos in the wrong folder",
        lambda folder: (folder / "train_images").rename(folder / "train"),
        r"train_images/ID_0.jpg, image ID_0: photo missing",
    ),
    Case(
        "a folder of photos that links to itself",
        lambda folder: (
            (folder / "test_images").rename(folder / "old"),
            (folder / "test_images").symlink_to("test_images"),
        ),
        r"image ID_t0: photo .*Too many levels",
    ),
    Case(
        "train and test photos swapped",
        lambda folder: (
            (folder / "train_images").rename(folder / "x"),
            (folder / "test_images").rename(folder / "train_images"),
            (folder / "x").rename(folder / "test_images"),
        ),
        r"image ID_0: photo missing",
    ),
]
MASKS = [
    Case("mask without a byte", write(MASK, b""), r"train_masks/ID_3.jpg, image ID_3: mask empty"),
    Case("mask that is text", write(MASK, "404"), r"train_masks/ID_3.jpg, image ID_3: mask not a picture"),
    Case("mask of half the size", saved(MASK, size=(80, 60)), r"ID_3: mask of 80×60 pixels", "warning"),
    Case("mask turned", saved(MASK, size=(120, 160)), r"ID_3: mask of 120×160 pixels", "warning"),
    Case("mask of one pixel", saved(MASK, size=(1, 1)), r"image ID_3: mask of 1×1 pixels", "warning"),
    Case("mask of 200 megapixels", write(MASK, header_of(20000, 10000)), r"ID_3: mask .*20000×10000 pixels"),
    Case("mask that links to nothing", link(MASK, "nowhere.jpg"), r"image ID_3: mask missing"),
    Case("mask that links to itself", link(MASK, "ID_3.jpg"), r"image ID_3: mask .*Too many levels"),
    Case("mask that is a folder", as_folder(MASK), r"image ID_3: mask .*not a file"),
    Case("mask that is a pipe", fifo(MASK), r"image ID_3: mask .*not a file"),
    Case("mask named .png", move(MASK, "train_masks/ID_3.png"), r"train_masks: 1 files .*ID_3.png", "note"),
    Case("mask of no photo", write("test_masks/ID_x.jpg", b"x"), r"test_masks: 1 files .*ID_x.jpg", "note"),
    Case(
        "mask all white",
        lambda folder: Image.new("L", (160, 120), 255).save(folder / MASK),
        r"ID_3.jpg, image ID_3: mask covers the whole photo",
        "warning",
    ),
    Case("mask all black", lambda folder: Image.new("L", (160, 120), 0).save(folder / MASK), "", ""),
    Case("CMYK mask", saved(MASK, "CMYK"), "", ""),
]
CAMERA = [
    Case("intrinsics are missing", remove(INTRINSICS), r"intrinsic.txt: cannot read .*No such file"),
    Case(
        "no intrinsics in the file", write(INTRINSICS, b""), r"camera_intrinsic.txt: fx, fy, cx, cy missing"
    ),
    Case("one is missing", replace(INTRINSICS, "fy", "fz"), r"camera_intrinsic.txt: fy missing"),
    Case("a folder of intrinsics", as_folder(INTRINSICS), r"intrinsic.txt: cannot read .*Is a directory"),
    Case("intrinsics that link to themselves", link(INTRINSICS, "camera_intrinsic.txt"), r"Too many levels"),
    Case("intrinsics in a pipe", fifo(INTRINSICS), r"camera_intrinsic.txt: .*not a file"),
    Case("infinite focal length", replace(INTRINSICS, "110", "inf"), r"intrinsic.txt: .*must be finite"),
    Case("no focal length", replace(INTRINSICS, "110", "0"), r"intrinsic.txt: fx and fy must be above zero"),
    Case("negative focal length", replace(INTRINSICS, "fy = 110", "fy = -110"), r"must be above zero"),
    Case(
        "fx given twice",
        replace(INTRINSICS, "fy = 110", "fx = 220\nfy = 110"),
        r"intrinsic.txt: line 2: fx occurs twice",
    ),
    Case("decimal comma of fx", replace(INTRINSICS, "79.5", "79,5"), r"line 3: .*found 'cx = 79,5'"),
    Case("an equation of words", replace(INTRINSICS, "79.5", "centre"), r"line 3: .*found 'cx = centre'"),
    Case("a matrix", write(INTRINSICS, "110 0 79.5\n0 110 60\n0 0 1\n"), r"line 1: expected `name = number`"),
    Case(
        "UTF-16 intrinsics",
        recode(INTRINSICS, lambda content: content.decode().encode("utf-16")),
        r"camera_intrinsic.txt: is not a text file",
    ),
    Case(
        "centre swapped",
        write(INTRINSICS, "fx = 110\nfy = 110\ncx = 60\ncy = 79.5\n"),
        r"camera_intrinsic.txt: .*cx and cy .*swapped",
    ),
    Case(
        "focal length and centre swapped",
        write(INTRINSICS, "fx = 79.5\nfy = 60\ncx = 110\ncy = 110\n"),
        r"camera_intrinsic.txt: .*fx and cx, .*swapped",
    ),
    Case(
        "focal length in millimetres",
        replace(INTRINSICS, "fx = 110\nfy = 110", "fx = 3.5\nfy = 3.5"),
        r"camera_intrinsic.txt: fx, fy = 3.5, 3.5 .*pixels",
    ),
    Case(
        "focal length of one side",
        replace(INTRINSICS, "fy = 110", "fy = 150"),
        r"camera_intrinsic.txt: fx, fy = 110, 150 differ",
        "warning",
    ),
    Case(
        "intrinsics of twice the size",
        write(INTRINSICS, "fx = 220\nfy = 220\ncx = 159.5\ncy = 120\n"),
        r"camera_intrinsic.txt: cx, cy = 159.5, 120 is far from the centre",
    ),
    Case(
        "intrinsics of Windows",
        recode(INTRINSICS, lambda c: b"\xef\xbb\xbf" + c.replace(b"\n", b";\r\n")),
        "",
        "",
    ),
]


def run_check(run, folder: Path, output: Path):
    options = ("--findings", output / "findings.csv", "--images", output / "images.parquet")
    return run(kaggle.main, "check", folder, *options, "--labels", output / "labels.parquet", "--jobs", 1)


@cases(NUMBERS, FORMATS, IMAGE_IDS, PHOTOS, MASKS, CAMERA)
def test_the_check_names_the_culprit(case, data, tmp_path, run):
    case.damage(data)
    before = contents(data)
    output = tmp_path / "output"
    done = run_check(run, data, output)
    lines = [line for line in done.out.splitlines() if line.startswith(("error: ", "warning: "))]
    assert "Traceback" not in done.err and "Warning" not in done.err, done.err
    assert contents(data) == before, "the data are not changed"
    written = {path.name for path in output.iterdir()}
    if case.severity == "error":
        assert done.status == 1
        assert any(re.search(rf"^error: .*{case.message}", line) for line in lines), done.out
        assert written == {"findings.csv"}
        assert (pd.read_csv(output / "findings.csv")["severity"] == "error").any()
    else:
        assert done.status == 0, done.out
        assert written == {"findings.csv", "images.parquet", "labels.parquet"}
        if case.severity:
            assert re.search(rf"^{case.severity}: .*{case.message}", done.out, re.M), done.out
        else:
            assert not lines
    assert all(len(line) < 500 + len(str(data)) for line in lines)


def test_the_valid_folder_has_no_finding_but_notes(data, tmp_path, run):
    done = run_check(run, data, tmp_path / "output")
    assert done.status == 0 and "0 warnings, 0 errors" in done.out


def test_missing_rights_are_named(valid_folder, run, unprivileged_copy):
    """Of a photo, a table, a folder of photos, and where the tables of the check are to be written."""
    folder, output = unprivileged_copy
    for name, message in (
        (PHOTO, "ID_1.jpg, image ID_1: photo unreadable .Permission denied"),
        (TRAIN, "train.csv: cannot be read .Permission denied"),
        (INTRINSICS, "cannot read the camera's intrinsics .Permission denied"),
    ):
        (folder / name).chmod(0)
        done = run_check(run, folder, output)
        assert done.status == 1 and re.search(f"^error: .*{message}", done.out, re.M), done.out
        (folder / name).chmod(0o644)
    (folder / "train_images").chmod(0o300)  # its files can be opened, but not listed
    done = run_check(run, folder, output)
    assert done.status == 2 and "train_images: Permission denied" in done.err
    (folder / "train_images").chmod(0o755)
    output.chmod(0o500)
    done = run_check(run, folder, output)
    assert done.status == 2 and "Permission denied" in done.err and "output" in done.err


@pytest.mark.parametrize(
    "name", ["my data", 'it\'s "here"', "Fotos für Zürich", "写真", "a=b", "$HOME;ls", "-x", "{0}"]
)
def test_folders_may_have_any_name(name, data, tmp_path, run):
    folder = data.rename(tmp_path / name)
    assert run_check(run, folder, tmp_path / "output").status == 0


@pytest.mark.parametrize(
    "damage",
    [
        link(PHOTO, "ID_1.jpg"),
        link(PHOTO, "nowhere"),
        fifo(PHOTO),
        as_folder(PHOTO),
        as_folder(TRAIN),
        fifo(TRAIN),
    ],
    ids=["loop", "link to nothing", "pipe", "folder", "folder as table", "pipe as table"],
)
def test_the_identity_of_the_data_is_told_whatever_they_are(damage, data):
    """It is read before any plan; the check reports what is wrong."""
    before = data_identity(data)
    damage(data)
    assert data_identity(data) != before


# Anything at all


TOKENS = st.one_of(
    st.floats().map(str),
    st.integers().map(str),
    st.text(max_size=6),
    st.sampled_from(
        ["nan", "1_0", "0x1", "1e999", "1,5", "--1", "٣", "\u00a0", '"', "\0", "", "True", "1e-400"]
    ),
)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.lists(TOKENS, max_size=15), min_size=1, max_size=4), st.sampled_from(["\n", "\r\n"]))
def test_each_row_of_any_text_is_read_or_reported(tmp_path, rows, line_end):
    path = tmp_path / "train.csv"
    lines = [f"ID_{i}," + " ".join(tokens) for i, tokens in enumerate(rows)]
    path.write_bytes(line_end.join(["ImageId,PredictionString", *lines]).encode(errors="surrogatepass"))
    try:
        table, listed, findings = parse(path, LABEL)
    except UserError as error:
        assert str(path) in str(error) and "\n" not in str(error)
        return
    assert np.isfinite(table[cars.POSE].to_numpy(float)).all()
    assert all("\n" not in str(finding) and finding.line for finding in findings)
    bad = {finding.ImageId for finding in findings}
    for image_id, count in zip(listed["ImageId"], listed["cars"], strict=True):
        assert (table["ImageId"] == image_id).sum() == count
        assert not count or image_id not in bad or listed["ImageId"].duplicated().any()


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_damage_of_a_table_or_of_intrinsics_is_one_line(valid_folder, tmp_path, data):
    """Bytes that are changed, taken away or inserted anywhere."""
    name = data.draw(st.sampled_from([TRAIN, SAMPLE, INTRINSICS]))
    content = (valid_folder / name).read_bytes()
    start = data.draw(st.integers(0, len(content)))
    end = data.draw(st.integers(start, min(start + 40, len(content))))
    path = tmp_path / "damaged"
    path.write_bytes(content[:start] + data.draw(st.binary(max_size=40)) + content[end:])
    read = {TRAIN: read_labels, SAMPLE: read_sample, INTRINSICS: camera.read_intrinsics}[name]
    try:
        read(path)
    except UserError as error:
        assert str(path) in str(error) and "\n" not in str(error)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_damage_of_a_photo_is_a_finding_or_harmless(valid_folder, tmp_path, data):
    """What the check accepts can be read, at the size it reports."""
    content = (valid_folder / PHOTO).read_bytes()
    start = data.draw(st.integers(0, len(content)))
    end = data.draw(st.integers(start, min(start + 200, len(content))))
    path = tmp_path / "photo.jpg"
    path.write_bytes(content[:start] + data.draw(st.binary(max_size=60)) + content[end:])
    picture, _ = photos.inspect_picture(path)
    assert "\n" not in picture.problem
    if not picture.problem:
        assert pictures.read(path).shape[1::-1] == picture[:2]
