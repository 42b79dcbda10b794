"""The check of a data folder: every error in its files is reported."""

import hashlib
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import ExifTags, Image

from carpose.core import cars, parquet
from carpose.kaggle import photos
from carpose.kaggle.check import check, check_labels
from carpose.kaggle.tables import LABEL, Finding, parse
from tests.helpers import CAR, PREDICTED, run_module, write_csv

TABLES = "train.csv", "sample_submission.csv"


def command(*args):
    return run_module("carpose.kaggle", *args, check=False)


def write_photo(path, seed, size=(160, 120), **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    blocks = np.random.default_rng(seed).integers(0, 255, (6, 8, 3), np.uint8)
    picture = Image.fromarray(blocks).resize(size, Image.Resampling.BICUBIC)
    picture.save(path, **{"format": "JPEG", "quality": 95} | options)


@pytest.fixture
def data(tmp_path):
    """A folder without errors: twelve training and two test images, one mask."""
    rng = np.random.default_rng(0)
    x, z = rng.uniform(-5, 5, (2, 12)) + [[0], [20]]
    strings = [f"16 0.15 -1.5 -3.1 {x[i]} {1.5 + 0.16 * z[i]} {z[i]}" for i in range(12)]
    write_csv(tmp_path / "train.csv", [(f"ID_{i}", strings[i]) for i in range(12)])
    write_csv(tmp_path / "sample_submission.csv", [("ID_t0", PREDICTED), ("ID_t1", PREDICTED)])
    for i in range(12):
        write_photo(tmp_path / f"train_images/ID_{i}.jpg", seed=i)
    for i in range(2):
        write_photo(tmp_path / f"test_images/ID_t{i}.jpg", seed=100 + i)
    write_photo(tmp_path / "train_masks/ID_3.jpg", seed=0)
    (tmp_path / "camera").mkdir()
    (tmp_path / "camera/camera_intrinsic.txt").write_text("fx = 110\nfy = 110\ncx = 79.5\ncy = 60\n")
    return tmp_path


def found(data, severity, **options):
    findings = check(data, **options)[2]
    return [str(finding) for finding in findings if finding.severity == severity]


def test_a_folder_without_errors(data):
    images, labels, findings = check(data, jobs=2)
    assert {finding.severity for finding in findings} == {"note"}
    assert list(images) == ["ImageId", "split", "width", "height", "has_mask", "phash", "digest", "excluded"]
    assert images["split"].value_counts().to_dict() == {"train": 12, "test": 2}
    assert images.loc[images["has_mask"], "ImageId"].tolist() == ["ID_3"]
    assert (images["width"] == 160).all() and (images["height"] == 120).all()
    assert images["phash"].str.fullmatch("[0-9a-f]{16}").all() and images["phash"].nunique() == 14
    assert len(labels) == 12 and (images["excluded"] == "").all()


def test_digests_are_of_the_bytes_that_are_used(data):
    """Of the photo and of its mask, if that can be used; "" without a photo."""

    def digests():
        return check(data)[0].set_index("ImageId")["digest"]

    def sha(*names):
        content = b"".join((data / name).read_bytes() for name in names)
        return hashlib.sha256(content).hexdigest()[:16]

    before = digests()
    assert before["ID_3"] == sha("train_images/ID_3.jpg", "train_masks/ID_3.jpg")
    assert before["ID_t1"] == sha("test_images/ID_t1.jpg")
    write_photo(data / "train_masks/ID_3.jpg", 0, (80, 60))  # another size, so it is not used
    (data / "train_images/ID_4.jpg").unlink()
    after = digests()
    assert after["ID_3"] == sha("train_images/ID_3.jpg") and after["ID_4"] == ""
    assert (before == after).sum() == 12


def damage_truncated(path):
    path.write_bytes(path.read_bytes()[:-40])


def damage_inside(path):
    """Remove the second half of the photo and end the file as a complete one ends."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2] + b"\xff\xd9")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.unlink(), "photo missing"),
        (lambda path: path.write_bytes(b""), "photo empty"),
        (lambda path: path.write_text("<html>not found</html>"), "photo not a picture"),
        (lambda path: path.write_bytes(path.read_bytes()[:-40]), "photo unreadable .*truncated"),
        (lambda path: path.write_bytes(path.read_bytes()[:-2]), "photo unreadable .*truncated"),
        (damage_inside, "photo damaged .*premature end.*; replace the file, or exclude the image"),
        (lambda path: write_photo(path, 1, (120, 160)), "photo of 120×160 pixels, the others have 160×120"),
    ],
)
@pytest.mark.parametrize(("split", "image_id"), [("train", "ID_5"), ("test", "ID_t1")])
def test_photos_that_cannot_be_used(data, damage, message, split, image_id):
    damage(data / f"{split}_images/{image_id}.jpg")
    errors = found(data, "error")
    assert len(errors) == 1
    assert re.search(f"{image_id}.jpg, image {image_id}: {message}", errors[0])
    assert not found(data, "error", exclude={image_id: "broken"})  # an excluded image may be damaged


def test_a_missing_photo_does_not_count_as_one_without_a_mask(data):
    [before] = [text for text in found(data, "note") if "train_masks" in text]
    assert "11 of 12 images have no mask" in before
    (data / "train_images/ID_3.jpg").unlink()
    [after] = [text for text in found(data, "note") if "train_masks" in text]
    assert "11 of 11 images have no mask" in after


def test_a_mask_of_another_size_is_not_used(data):
    write_photo(data / "train_masks/ID_3.jpg", 0, (80, 60))
    images, _, _ = check(data)
    assert not images["has_mask"].any() and not found(data, "error")
    [warning] = found(data, "warning")
    assert "train_masks/ID_3.jpg" in warning and "mask of 80×60 pixels; it is not used" in warning


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.write_bytes(b""), "mask empty"),
        (damage_truncated, "mask unreadable .*truncated"),
        (damage_inside, "mask damaged .*premature end"),
    ],
)
def test_a_broken_mask_is_an_error(data, damage, message):
    damage(data / "train_masks/ID_3.jpg")
    [error] = found(data, "error")
    advice = "; replace the file, delete it, or exclude the image"
    assert re.search(f"train_masks/ID_3.jpg, image ID_3: {message}.*{advice}", error)
    images, _, findings = check(data, exclude={"ID_3": "its mask"})
    assert not images["has_mask"].any() and "error" not in {finding.severity for finding in findings}


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"quality": 50, "subsampling": 0}])
def test_damage_inside_a_photo_is_found(data, options):
    """A file that is cut off or overwritten at random places is reported in nearly all cases; the intact file
    is not."""
    path, rng = data / "train_images/ID_5.jpg", np.random.default_rng(0)
    noticed = {"cut": 0, "overwritten": 0}
    write_photo(path, 5, (640, 480), **options)
    intact = path.read_bytes()
    assert photos.inspect_picture(path)[0].problem == ""
    begin, tries = intact.index(b"\xff\xda") + 16, 40
    for _ in range(tries):
        path.write_bytes(intact[: rng.integers(begin, len(intact) - 100)] + b"\xff\xd9")
        noticed["cut"] += photos.inspect_picture(path)[0].problem != ""
        length = int(rng.integers(16, 512))
        start = int(rng.integers(begin, len(intact) - length - 2))
        path.write_bytes(intact[:start] + rng.bytes(length) + intact[start + length :])
        noticed["overwritten"] += photos.inspect_picture(path)[0].problem != ""
    assert noticed["cut"] == tries and noticed["overwritten"] >= 0.85 * tries


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize(
    "options", [{}, {"progressive": True}, {"format": "PNG"}, {"restart_marker_rows": 1}]
)
def test_intact_pictures_of_any_format_are_not_damaged(tmp_path, mode, options):
    path = tmp_path / "picture.jpg"
    write_photo(path, 1)
    if (mode, options.get("format")) == ("CMYK", "PNG"):
        pytest.skip("PNG has no CMYK")
    Image.open(path).convert(mode).save(path, **{"format": "JPEG"} | options)
    assert photos.inspect_picture(path)[0] == photos.Picture(160, 120)
    if "format" not in options:  # some cameras write such padding
        path.write_bytes(path.read_bytes()[:-2] + bytes(12) + b"\xff\xd9")
        assert photos.inspect_picture(path)[0].problem == ""


def test_real_frames_are_not_damaged(real):
    frames = sorted((real / "frames").glob("*.png"))
    assert frames and not any(photos.inspect_picture(path)[0].problem for path in frames)


@pytest.mark.parametrize(
    ("kind", "folder", "image_id"), [("photo", "train_images", "ID_5"), ("mask", "train_masks", "ID_3")]
)
def test_a_picture_with_an_exif_orientation_is_read_as_it_is_stored(data, kind, folder, image_id):
    """With a warning; the labels are for the pixels of the camera."""
    path = data / folder / f"{image_id}.jpg"
    before = check(data)[0].drop(columns="digest")
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6  # a quarter turn
    Image.open(path).save(path, exif=exif, quality=95)
    [warning] = found(data, "warning")
    assert f"image {image_id}: {kind} has EXIF orientation 6; it is read without" in warning
    assert not found(data, "error")
    pd.testing.assert_frame_equal(check(data)[0].drop(columns=["digest"]), before)


def append(path, *rows):
    path.write_text(path.read_text() + "".join(",".join(row) + "\n" for row in rows))


def test_labels_that_cannot_be_used(data):
    append(data / "train.csv", ("ID_0", CAR), ("../secret", CAR), ("ID_t0", CAR))
    write_photo(data / "secret.jpg", 0)
    write_photo(data / "train_images/ID_t0.jpg", 0)
    errors = found(data, "error")
    assert len(errors) == 3
    assert "line 14, image ID_0: the ImageId occurs twice" in errors[0]
    assert "line 15, image ../secret: invalid ImageId '../secret'" in errors[1]
    assert "sample_submission.csv, line 2, image ID_t0: is also in train.csv" in errors[2]


def test_a_file_of_an_invalid_image_id_is_never_opened(data, monkeypatch):
    record, read = data / "opened", Path.read_bytes

    def recorded(path):
        with open(record, "a", encoding="utf-8") as file:  # other processes append to it, too
            file.write(f"{path}\n")
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", recorded)
    append(data / "train.csv", ("../../secret", CAR), ("/etc/passwd", CAR), ("..", CAR))
    check(data)
    opened = record.read_text().splitlines()
    assert len(opened) == 15 and not any("secret" in path or ".." in path for path in opened)


def test_outliers_are_reported_and_the_depth_rule_applied(data):
    append(data / "train.csv", ("ID_a", "1 0.15 0 -3.1 0 40 300"), ("ID_b", "1 0.15 0 0.1 0 -9 20"))
    for name in ("ID_a", "ID_b"):
        write_photo(data / f"train_images/{name}.jpg", 0)
    _, labels, findings = check(data, max_depth=200, max_depth_reason="a few pixels tall")
    text = [str(finding) for finding in findings]
    assert any(
        "line 14, image ID_a: a car with z = 300 m is left out; a few pixels tall" in line for line in text
    )
    assert any("line 15, image ID_b: a car with roll = 0.10, between" in line for line in text)
    assert any("line 15, image ID_b" in line and "above the common road" in line for line in text)
    assert "ID_a" not in set(labels["ImageId"]) and "ID_b" in set(labels["ImageId"])
    append(data / "train.csv", ("ID_c", "1 0.15 0 -3.1 0 4 -5"))
    write_photo(data / "train_images/ID_c.jpg", 0)
    assert "ID_c: a car with z = -5 m is not in front" in found(data, "error")[0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"fx = nan\nfy = 110\ncx = 79.5\ncy = 60\n", "fx, fy, cx and cy must be finite"),
        (bytes(range(256)), "is not a text file"),
        (b"fx: 110, " * 500, "line 1: expected `name = number`, found 'fx: 110, "),
    ],
)
def test_invalid_intrinsics(data, text, message):
    (data / "camera/camera_intrinsic.txt").write_bytes(text)
    [error] = found(data, "error")
    assert "camera_intrinsic.txt" in error and message in error
    assert len(error.removeprefix(str(data))) < 200


def test_nothing_to_learn_from_or_to_predict(data):
    ids = [f"ID_{number}" for number in range(12)]
    write_csv(data / "train.csv", [(name, "") for name in ids])
    no_car, no_image = (
        f"{data}/{name}: has no {what}; use the complete file, or exclude less"
        for name, what in zip(TABLES, ("car to learn from", "image to predict"), strict=True)
    )
    assert found(data, "error") == [no_car]
    write_csv(data / "train.csv", [("ID_0", CAR), ("ID_1", "")])
    assert not found(data, "error")
    assert found(data, "error", exclude={"ID_0": "sun"}) == [no_car]
    assert found(data, "error", max_depth=10) == [no_car]
    assert found(data, "error", exclude=dict.fromkeys(["ID_t0", "ID_t1"], "sun")) == [no_image]
    write_csv(data / "train.csv", [])
    write_csv(data / "sample_submission.csv", [])
    assert found(data, "error") == [no_car, no_image]
    write_csv(data / "train.csv", [("ID_0", "x")])  # one error per file is enough
    assert ["line 2, image ID_0: 1 numbers" in error for error in found(data, "error")] == [True, False]


def test_impossible_positions_and_angles(data):
    write_csv(data / "train.csv", [("ID_0", CAR.replace("16.0", "1e300")), ("ID_1", CAR)])
    [error] = found(data, "error")
    assert "train.csv, line 2, image ID_0: a car at x, y, z = 2, 4, 1e+300 m" in error
    assert not found(data, "error", max_depth=100)
    write_csv(data / "train.csv", [("ID_0", CAR.replace("-1.5", "-85.9")), ("ID_1", CAR)])
    [error] = found(data, "error")
    assert "line 2, image ID_0: a car with pitch, yaw, roll = 0.15, -85.9, -3.1, beyond a full turn" in error


def test_intrinsics_of_another_size(data):
    (data / "camera/camera_intrinsic.txt").write_text("fx = 2304.5\nfy = 2305.9\ncx = 1686.2\ncy = 1355.0\n")
    assert "far from the centre of photos of 160×120" in found(data, "error")[0]


def test_exclusions_are_findings(data):
    images, labels, findings = check(data, exclude={"ID_2": "sun", "ID_typo": "?"})
    assert images.set_index("ImageId").loc["ID_2", "excluded"] == "sun"
    assert "ID_2" not in set(labels["ImageId"])
    assert any(f.ImageId == "ID_2" and "sun" in f.finding and f.severity == "note" for f in findings)
    assert any(f.ImageId == "ID_typo" and f.severity == "warning" for f in findings)


def test_command_check(data):
    outputs = [data / name for name in ("out/findings.csv", "out/images.parquet", "out/labels.parquet")]
    options = [
        item for pair in zip(("--findings", "--images", "--labels"), outputs, strict=True) for item in pair
    ]
    options += ["--identity", "0123abc"]
    good = command("check", data, *options, "--exclude", "ID_2=too bright, no road", "--max-depth", 23)
    assert good.returncode == 0, good.stderr
    assert "11 training images" in good.stdout and "1 excluded; " in good.stdout
    assert pd.read_csv(outputs[0]).columns.tolist() == list(Finding._fields)
    labels = cars.read(outputs[2])
    assert labels["z"].max() <= 23 and "model_type" in labels and "data 0123abc" in good.stdout
    assert parquet.about(outputs[2])["image_ids"] == [f"ID_{i}" for i in range(12) if i != 2]
    assert len(pd.read_parquet(outputs[1])) == 14

    damage_truncated(data / "train_images/ID_5.jpg")
    for path in outputs:
        path.unlink()
    bad = command("check", data, *options)
    assert bad.returncode == 1 and "ID_5" in bad.stdout and "Traceback" not in bad.stderr
    assert [path.exists() for path in outputs] == [True, False, False]
    (data / "train.csv").unlink()
    assert command("check", data).returncode == 1
    assert command("check", data / "nowhere").returncode == 2
    assert "--exclude ID_2" in command("check", data, "--exclude", "ID_2").stderr


def test_real_labels_have_known_outliers(real):
    labels, _, _ = parse(real / "train.csv", LABEL)
    lines = dict.fromkeys(labels["ImageId"], 0)
    findings = check_labels("train.csv", labels, lines, labels["z"] > 200, "far")
    texts = pd.Series([finding.finding for finding in findings])
    assert texts.str.contains("left out").sum() == 143
    assert texts.str.contains("roll").sum() == 11
    assert 1 <= texts.str.contains("common road").sum() < 30


def test_the_first_photos_of_either_table_can_be_all_that_is_used(data):
    """The others are not opened, and what is excluded does not count; a short table stays whole."""
    for i in (5, 11):
        (data / f"train_images/ID_{i}.jpg").write_bytes(b"")
    images, labels, findings = check(data, {"ID_1": "broken"}, max_photos=3)
    assert images["ImageId"].tolist() == ["ID_0", "ID_2", "ID_3", "ID_t0", "ID_t1"]
    assert labels["ImageId"].tolist() == ["ID_0", "ID_2", "ID_3"]
    assert not [finding for finding in findings if finding.severity == "error"]
    text = "\n".join(map(str, findings))
    assert "does not name" not in text and "not in the data" not in text
    [warning] = found(data, "warning", exclude={"ID_1": "broken"}, max_photos=3)
    assert "only the first 3 of 11 images are used" in warning
    assert not found(data, "warning", exclude={"ID_5": "empty", "ID_11": "empty"}, max_photos=12)
