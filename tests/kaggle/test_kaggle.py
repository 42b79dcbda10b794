"""The borders of the house: reading, writing and validating the competition's files, checking its folder."""

import re
import time

import numpy as np
import pandas as pd
import pytest
from conftest import run_module
from PIL import Image

from carpose import UserError, cars, folds, kaggle, kaggle_check

TABLES = "train.csv", "sample_submission.csv"

CAR = "16 0.15 -1.5 -3.1 2.0 4.0 16.0"
PREDICTED = "0.15 -1.5 -3.1 2.0 4.0 16.0 0.9"


def write_csv(path, rows):
    path.write_text("\n".join(["ImageId,PredictionString", *(",".join(row) for row in rows)]) + "\n")
    return path


def random_cars(count, images=5, seed=0):
    rng = np.random.default_rng(seed)
    table = pd.DataFrame(rng.uniform(-3, 3, (count, 6)), columns=cars.POSE)
    table["z"] += 30
    table.insert(0, "ImageId", [f"ID_{i}" for i in rng.integers(0, images, count)])
    return table.assign(score=rng.uniform(0, 1, count))


# Reading


def test_labels_are_read(tmp_path):
    path = write_csv(tmp_path / "train.csv", [("b", f"{CAR} {CAR}"), ("empty", ""), ("a", CAR)])
    table, image_ids = kaggle.read_labels(path)
    assert image_ids == ["b", "empty", "a"]
    assert table["ImageId"].tolist() == ["b", "b", "a"]
    assert table["model_type"].dtype.kind == "i" and table["model_type"].tolist() == [16] * 3
    assert table.loc[0, cars.POSE].tolist() == [0.15, -1.5, -3.1, 2.0, 4.0, 16.0]


def test_a_file_without_any_car(tmp_path):
    table, image_ids = kaggle.read_submission(write_csv(tmp_path / "s.csv", [("a", ""), ("b", "")]))
    assert table.empty and image_ids == ["a", "b"] and {"ImageId", "score", *cars.POSE} == set(table)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (("b", CAR.replace("-1.5", "-1,5")), "line 3, image b: 3 columns"),
        (("b", CAR.replace("-1.5", "x1")), "line 3, image b: token 3 .*yaw of car 1.*'x1' is not a number"),
        (("b", f"{CAR} {CAR.replace('16.0', 'nan')}"), "line 3, image b: token 14 .*z of car 2.*not finite"),
        (("b", CAR.replace("16 ", "1.5 ")), "line 3, image b: token 1 .*model_type.*whole number"),
        (("b", CAR.replace("16 ", "1e300 ")), "line 3, image b: token 1 .*model_type.*whole number"),
        (("b", CAR[:-5]), "line 3, image b: 6 numbers, which is not a multiple of 7"),
        (("a", CAR), "line 3, image a: the ImageId was there before"),
        (("../a", CAR), "line 3, image ../a: .*not a plain name"),
        (("", CAR), "line 3: .*not a plain name"),
    ],
)
def test_errors_name_file_line_image_and_token(tmp_path, row, message):
    path = write_csv(tmp_path / "train.csv", [("a", CAR), row, ("c", CAR)])
    with pytest.raises(UserError, match=f"train.csv, {message}"):
        kaggle.read_labels(path)


def test_all_that_is_right_is_read_and_all_that_is_wrong_is_reported(tmp_path):
    path = write_csv(
        tmp_path / "train.csv", [("a", "x"), ("b", CAR), ("c", CAR + " 1"), ("d", "inf" + CAR[2:])]
    )
    table, rows, findings = kaggle.parse(path, kaggle.LABEL)
    assert table["ImageId"].tolist() == ["b"] and rows["cars"].tolist() == [0, 1, 0, 0]
    assert [(finding.line, finding.ImageId) for finding in findings] == [(2, "a"), (4, "c"), (5, "d")]


@pytest.mark.parametrize(
    ("car", "message"),
    [
        (PREDICTED.replace("16.0", "-16"), "not in front of the camera"),
        (PREDICTED.replace("0.9", "1.5"), "a score is outside"),
        (PREDICTED.replace("2.0", "1e300"), "farther than 10 km"),
        (PREDICTED.replace("-3.1", "7"), "an angle is outside"),
    ],
)
def test_cars_that_cannot_be_are_not_read(tmp_path, car, message):
    path = write_csv(tmp_path / "s.csv", [("a", PREDICTED), ("b", car)])
    with pytest.raises(UserError, match=f"s.csv, line 3, image b: .*{message}") as error:
        kaggle.read_submission(path)
    assert [str(error.value)] == list(map(str, kaggle.validate(path, path)))
    assert kaggle.read_sample(path) == ["a", "b"]  # whose cars are none


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (("a " * 2000, PREDICTED), "is not a plain name"),
        (('"a\n' * 2000 + '"', PREDICTED), "line 3: .*quotation mark"),
        (("a" * 4000,), "line 3, image a+…: 1 columns instead of 2"),
        (("a", "x" * 4000 + PREDICTED[4:]), "token 1 .* 'x+…' is not a number"),
    ],
)
def test_what_is_long_is_not_shown_whole(tmp_path, row, message):
    path = write_csv(tmp_path / "s.csv", [("b", PREDICTED), row])
    with pytest.raises(UserError, match=message) as error:
        kaggle.read_submission(path)
    assert len(str(error.value).removeprefix(str(path))) < 250 and "\n" not in str(error.value)


def test_an_open_quotation_mark_is_named_where_it_stands(tmp_path):
    rows = [("a", PREDICTED), ("", ""), ("b", '"' + PREDICTED), *((f"c{i}", PREDICTED) for i in range(9000))]
    path = write_csv(tmp_path / "s.csv", rows)
    path.write_text(path.read_text().replace("\n,\n", "\n\n"))  # a blank line, which is passed over
    for text in (path.read_text(), path.read_text()[:2000]):  # more than Python's csv takes, and less
        path.write_text(text)
        with pytest.raises(UserError, match="s.csv, line 4: .*; close or remove the quotation mark") as error:
            kaggle.read_submission(path)
        assert len(str(error.value)) < 250


def test_unreadable_files(tmp_path):
    with pytest.raises(UserError, match=r"no.csv: cannot be read"):
        kaggle.read_labels(tmp_path / "no.csv")
    (tmp_path / "other.csv").write_text("image,cars\na,\n")
    with pytest.raises(UserError, match=r"other.csv, line 1: header"):
        kaggle.read_labels(tmp_path / "other.csv")
    (tmp_path / "page.csv").write_text("<html>" * 1000)
    with pytest.raises(UserError, match=r"line 1: header .* found '<html>") as error:
        kaggle.read_labels(tmp_path / "page.csv")
    assert len(str(error.value)) < 250
    (tmp_path / "binary.csv").write_bytes(bytes([255, 216, 255, 0]))
    with pytest.raises(UserError, match=r"binary.csv"):
        kaggle.read_labels(tmp_path / "binary.csv")


def test_real_labels_are_read_in_a_second(real):
    start = time.perf_counter()
    table, image_ids = kaggle.read_labels(real / "train.csv")
    assert time.perf_counter() - start < 2  # 0.25 s on an idle machine
    assert (len(table), len(image_ids)) == (49684, 4262)
    assert table["model_type"].nunique() == 34
    assert table["pitch"].median() == pytest.approx(0.15, abs=0.02)  # the first angle is the pitch
    assert len(kaggle.read_sample(real / "sample_submission.csv")) == 2021


# Writing


def test_a_written_submission_reads_back(tmp_path):
    table = random_cars(40).astype(dict.fromkeys([*cars.POSE, "score"], np.float32))
    images = ["ID_4", "ID_none", *[f"ID_{i}" for i in range(4)]]
    kaggle.write_submission(tmp_path / "s.csv", table, images)
    back, image_ids = kaggle.read_submission(tmp_path / "s.csv")
    assert image_ids == images
    assert "ID_none,\n" in (tmp_path / "s.csv").read_text()
    assert back.groupby("ImageId")["score"].apply(lambda score: score.is_monotonic_decreasing).all()
    columns = ["ImageId", *cars.POSE, "score"]
    expected = table.sort_values(["ImageId", "score"])[columns].reset_index(drop=True)
    back = back.astype(expected.dtypes).sort_values(["ImageId", "score"])[columns].reset_index(drop=True)
    pd.testing.assert_frame_equal(back, expected, rtol=3e-7)


def test_angles_are_wrapped(tmp_path):
    table = random_cars(3).assign(yaw=[3 * np.pi / 2, np.pi, -7.0])
    kaggle.write_submission(tmp_path / "s.csv", table, table["ImageId"].unique())
    back, _ = kaggle.read_submission(tmp_path / "s.csv")
    assert (back[cars.ANGLES].abs() <= np.pi + 1e-8).all(axis=None)
    np.testing.assert_allclose(np.sort(np.sin(back["yaw"])), np.sort(np.sin(table["yaw"])), atol=1e-7)
    assert table["yaw"].tolist() == [3 * np.pi / 2, np.pi, -7.0]  # the caller's table is not touched


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"score": 1.2}, "score outside"),
        ({"x": np.inf}, "not finite"),
        ({"ImageId": "other"}, "image other is not one of"),
    ],
)
def test_nothing_wrong_is_written(tmp_path, change, message):
    with pytest.raises(UserError, match=message):
        kaggle.write_submission(
            tmp_path / "s.csv", random_cars(3).assign(**change), [f"ID_{i}" for i in range(5)]
        )
    assert not (tmp_path / "s.csv").exists()


def test_a_submission_without_cars(tmp_path):
    kaggle.write_submission(tmp_path / "s.csv", cars.empty(kaggle.PREDICTION), ["a", "b"])
    assert (tmp_path / "s.csv").read_text() == "ImageId,PredictionString\na,\nb,\n"


# Validating


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([("a", PREDICTED), ("b", "")], None),
        ([("b", ""), ("a", PREDICTED)], "line 2, image a: the order differs"),
        ([("a", PREDICTED)], "image b: the image is missing"),
        ([("a", ""), ("b", ""), ("c", "")], "line 4, image c: the image is not in the sample"),
        ([("a", ""), ("b", ""), ("b", "")], "line 4, image b: .*before"),
        ([("a", PREDICTED[:-3] + "1.1"), ("b", "")], r"line 2, image a: a score is outside \[0, 1\]"),
        ([("a", PREDICTED), ("b", PREDICTED.replace("-3.1", "3.2"))], "line 3, image b: an angle is outside"),
        ([("a", PREDICTED.replace("16.0", "-16")), ("b", "")], "line 2, image a: .*in front of the camera"),
        ([("a", PREDICTED.replace("16.0", "inf")), ("b", "")], "line 2, image a: token 6 .*not finite"),
        ([("a", PREDICTED + " 1"), ("b", "")], "line 2, image a: 8 numbers"),
    ],
)
def test_validation(tmp_path, rows, message):
    sample = write_csv(tmp_path / "sample.csv", [("a", PREDICTED), ("b", PREDICTED)])
    findings = kaggle.validate(write_csv(tmp_path / "s.csv", rows), sample)
    if message is None:
        assert not findings
    else:
        assert len(findings) == 1
        assert re.search(message, str(findings[0]))


def command(*args):
    return run_module("carpose.kaggle", *args, check=False)


def test_validate_and_write_by_hand(tmp_path):
    sample = write_csv(tmp_path / "sample.csv", [("ID_1", PREDICTED), ("ID_0", PREDICTED)])
    cars.write(tmp_path / "cars.parquet", random_cars(9, images=2))
    written = command("write", tmp_path / "cars.parquet", "--sample", sample, "--output", tmp_path / "s.csv")
    assert written.returncode == 0 and "valid, 2 images, 2 of them with 9 cars" in written.stdout
    assert command("validate", tmp_path / "s.csv", "--sample", sample).returncode == 0
    write_csv(tmp_path / "s.csv", [("ID_1", "")])
    failed = command("validate", tmp_path / "s.csv", "--sample", sample)
    assert failed.returncode == 1 and "ID_0" in failed.stdout
    write_csv(tmp_path / "s.csv", [("ID_1", ""), ("ID_0", "")])
    empty = command("validate", tmp_path / "s.csv", "--sample", sample)
    assert empty.returncode == 0 and "s.csv: there is no car in any of its images" in empty.stdout


def test_sure_cars_are_written_apart(tmp_path):
    sample = write_csv(tmp_path / "sample.csv", [("ID_1", ""), ("ID_0", "")])
    table = random_cars(9, images=2)
    cars.write(tmp_path / "cars.parquet", table.assign(sure=table["score"] > table["score"].median()))
    files = ("--sample", sample, "--output", tmp_path / "s.csv", "--sure-output", tmp_path / "sure.csv")
    written = command("write", tmp_path / "cars.parquet", *files)
    assert written.returncode == 0 and "sure.csv: valid, 2 images" in written.stdout
    numbers = [len(kaggle.read_submission(tmp_path / name)[0]) for name in ("s.csv", "sure.csv")]
    assert numbers == [9, 4]
    cars.write(tmp_path / "cars.parquet", table)
    failed = command("write", tmp_path / "cars.parquet", *files)
    assert failed.returncode == 2 and "cars.parquet: no column sure" in failed.stderr


def test_labels_are_not_written_as_a_submission(tmp_path):
    cars.write(tmp_path / "labels.parquet", random_cars(2, images=1).drop(columns="score"))
    sample = write_csv(tmp_path / "sample.csv", [("ID_0", "")])
    files = (tmp_path / "labels.parquet", "--sample", sample, "--output", tmp_path / "s.csv")
    failed = command("write", *files)
    assert failed.returncode == 2 and failed.stderr.count("\n") == 1
    assert "labels.parquet: no column score; predictions are needed here" in failed.stderr
    assert not (tmp_path / "s.csv").exists()


def test_real_predictions_are_a_valid_submission(real, tmp_path):
    sample = real / "sample_submission.csv"
    table, _ = kaggle.read_submission(real / "test_predictions.csv")
    kaggle.write_submission(tmp_path / "s.csv", table, kaggle.read_sample(sample))
    assert kaggle.validate(tmp_path / "s.csv", sample) == []


# Checking a folder


def write_photo(path, seed, size=(160, 120)):
    path.parent.mkdir(parents=True, exist_ok=True)
    blocks = np.random.default_rng(seed).integers(0, 255, (6, 8, 3), np.uint8)
    Image.fromarray(blocks).resize(size, Image.Resampling.BICUBIC).save(path, quality=95)


@pytest.fixture
def data(tmp_path):
    """A sound folder: twelve training and two test images, one mask."""
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
    findings = kaggle_check.check(data, **options)[2]
    return [str(finding) for finding in findings if finding.severity == severity]


def test_a_sound_folder(data):
    images, labels, findings = kaggle_check.check(data, jobs=2)
    assert {finding.severity for finding in findings} == {"note"}
    assert list(images) == ["ImageId", "split", "width", "height", "has_mask", "phash", "excluded"]
    assert images["split"].value_counts().to_dict() == {"train": 12, "test": 2}
    assert images.loc[images["has_mask"], "ImageId"].tolist() == ["ID_3"]
    assert (images["width"] == 160).all() and (images["height"] == 120).all()
    assert images["phash"].str.fullmatch("[0-9a-f]{16}").all() and images["phash"].nunique() == 14
    assert len(labels) == 12 and (images["excluded"] == "").all()


def damage_truncated(path):
    path.write_bytes(path.read_bytes()[:-40])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.unlink(), "photo missing"),
        (lambda path: path.write_bytes(b""), "photo empty"),
        (lambda path: path.write_text("<html>not found</html>"), "photo not a picture"),
        (lambda path: path.write_bytes(path.read_bytes()[:-40]), "photo unreadable .*truncated"),
        (lambda path: path.write_bytes(path.read_bytes()[:-2]), "photo unreadable .*truncated"),
        (lambda path: write_photo(path, 1, (120, 160)), "photo of 120×160 pixels, the others have 160×120"),
    ],
)
@pytest.mark.parametrize(("split", "image_id", "line"), [("train", "ID_5", 7), ("test", "ID_t1", 3)])
def test_photos_that_cannot_be_used(data, damage, message, split, image_id, line):
    damage(data / f"{split}_images/{image_id}.jpg")
    errors = found(data, "error")
    assert len(errors) == 1
    assert re.search(f"{image_id}.jpg, line {line}, image {image_id}: {message}", errors[0])
    assert not found(data, "error", exclude={image_id: "broken"})  # with a reason on record it may stay


def test_a_mask_of_another_size_or_broken_is_not_used(data):
    write_photo(data / "train_masks/ID_3.jpg", 0, (80, 60))
    (data / "train_masks/ID_4.jpg").write_bytes(b"")
    write_photo(data / "train_masks/ID_5.jpg", 0)
    damage_truncated(data / "train_masks/ID_5.jpg")
    images, _, _ = kaggle_check.check(data)
    assert not images["has_mask"].any()
    warnings = found(data, "warning")
    assert len(warnings) == 3 and "mask of 80×60 pixels" in warnings[0] and "mask empty" in warnings[1]
    assert "mask unreadable" in warnings[2] and "truncated" in warnings[2]
    assert not found(data, "error")


def append(path, *rows):
    path.write_text(path.read_text() + "".join(",".join(row) + "\n" for row in rows))


def test_labels_that_cannot_be_used(data):
    append(data / "train.csv", ("ID_0", CAR), ("../secret", CAR), ("ID_t0", CAR))
    write_photo(data / "secret.jpg", 0)
    write_photo(data / "train_images/ID_t0.jpg", 0)
    errors = found(data, "error")
    assert len(errors) == 3
    assert "line 14, image ID_0: the ImageId was there before" in errors[0]
    assert "line 15, image ../secret: ImageId '../secret' is not a plain name" in errors[1]
    assert "sample_submission.csv, line 2, image ID_t0: is also in train.csv" in errors[2]


def test_a_name_that_is_not_plain_is_never_opened(data, monkeypatch):
    opened = []
    look = kaggle_check.look
    monkeypatch.setattr(
        kaggle_check, "look", lambda path, **options: opened.append(path) or look(path, **options)
    )
    append(data / "train.csv", ("../../secret", CAR), ("/etc/passwd", CAR), ("..", CAR))
    kaggle_check.check(data)
    assert len(opened) == 15 and not any("secret" in str(path) or ".." in str(path) for path in opened)


def test_outliers_are_reported_and_the_depth_rule_applied(data):
    append(data / "train.csv", ("ID_a", "1 0.15 0 -3.1 0 40 300"), ("ID_b", "1 0.15 0 0.1 0 -9 20"))
    for name in ("ID_a", "ID_b"):
        write_photo(data / f"train_images/{name}.jpg", 0)
    _, labels, findings = kaggle_check.check(data, max_depth=200, max_depth_reason="a few pixels tall")
    text = [str(finding) for finding in findings]
    assert any(
        "line 14, image ID_a: a car with z = 300 m is left out; a few pixels tall" in line for line in text
    )
    assert any("line 15, image ID_b: a car with |roll| = 0.10 below π/2" in line for line in text)
    assert any("line 15, image ID_b" in line and "above the common road" in line for line in text)
    assert "ID_a" not in set(labels["ImageId"]) and "ID_b" in set(labels["ImageId"])
    append(data / "train.csv", ("ID_c", "1 0.15 0 -3.1 0 4 -5"))
    write_photo(data / "train_images/ID_c.jpg", 0)
    assert "ID_c: a car with z = -5 m, not in front" in found(data, "error")[0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"fx = nan\nfy = 110\ncx = 79.5\ncy = 60\n", "all numbers must be finite"),
        (bytes(range(256)), "is not a text file"),
        (b"fx: 110, " * 500, "line 1: expected `name = number`, found 'fx: 110, "),
    ],
)
def test_intrinsics_that_are_none(data, text, message):
    (data / "camera/camera_intrinsic.txt").write_bytes(text)
    [error] = found(data, "error")
    assert "camera_intrinsic.txt" in error and message in error
    assert len(error.removeprefix(str(data))) < 200


def test_nothing_to_learn_from_or_to_predict(data):
    ids = [f"ID_{number}" for number in range(12)]
    write_csv(data / "train.csv", [(name, "") for name in ids])
    no_car, no_image = (
        f"{data}/{name}: has no {what}; bring the whole file, or leave out less"
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
    write_csv(data / "train.csv", [("ID_0", "x")])  # one reason is enough
    assert ["line 2, image ID_0: 1 numbers" in error for error in found(data, "error")] == [True, False]


@pytest.mark.parametrize(
    ("count", "advice"), [(0, "exclude fewer"), (1, "exclude fewer"), (3, "use fewer folds")]
)
def test_too_few_photos_for_the_folds(count, advice):
    images = [(f"ID_{i}", "train", "", f"{(1 << 16 * i) * 0xFFFF:016x}") for i in range(count)]
    images = pd.DataFrame(images, columns=["ImageId", "split", "excluded", "phash"])
    with pytest.raises(UserError, match=f"^{count} groups of .* cannot fill 4 folds; .*{advice}"):
        folds.make_folds(images, cars.empty(), 4, seed=0, distance=2)


def test_a_car_in_another_country(data):
    write_csv(data / "train.csv", [("ID_0", CAR.replace("16.0", "1e300")), ("ID_1", CAR)])
    [error] = found(data, "error")
    assert "train.csv, line 2, image ID_0: a car at x, y, z = 2, 4, 1e+300 m" in error
    assert not found(data, "error", max_depth=100)
    write_csv(data / "train.csv", [("ID_0", CAR.replace("-1.5", "-85.9")), ("ID_1", CAR)])
    [error] = found(data, "error")
    assert "line 2, image ID_0: a car with pitch, yaw, roll = 0.15, -85.9, -3.1, beyond a full turn" in error


def test_intrinsics_of_another_size(data):
    (data / "camera/camera_intrinsic.txt").write_text("fx = 2304.5\nfy = 2305.9\ncx = 1686.2\ncy = 1355.0\n")
    assert "far from the middle of photos of 160×120" in found(data, "error")[0]


def test_exclusions_are_on_record(data):
    images, labels, findings = kaggle_check.check(data, exclude={"ID_2": "sun", "ID_typo": "?"})
    assert images.set_index("ImageId").loc["ID_2", "excluded"] == "sun"
    assert "ID_2" not in set(labels["ImageId"])
    assert any(f.ImageId == "ID_2" and "sun" in f.finding and f.severity == "note" for f in findings)
    assert any(f.ImageId == "ID_typo" and f.severity == "warning" for f in findings)


def test_check_by_hand(data):
    outputs = [data / name for name in ("out/findings.csv", "out/images.parquet", "out/labels.parquet")]
    options = [
        item for pair in zip(("--findings", "--images", "--labels"), outputs, strict=True) for item in pair
    ]
    good = command("check", data, *options, "--exclude", "ID_2=too bright, no road", "--max-depth", 23)
    assert good.returncode == 0, good.stderr
    assert "11 training images" in good.stdout and "1 excluded; " in good.stdout
    assert pd.read_csv(outputs[0]).columns.tolist() == list(kaggle.Finding._fields)
    labels = cars.read(outputs[2])
    assert labels["z"].max() <= 23 and "model_type" in labels
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
    labels, _, _ = kaggle.parse(real / "train.csv", kaggle.LABEL)
    lines = dict.fromkeys(labels["ImageId"], 0)
    findings = kaggle_check._check_cars("train.csv", labels, lines, labels["z"] > 200, "far")
    texts = pd.Series([finding.finding for finding in findings])
    assert texts.str.contains("left out").sum() == 143
    assert texts.str.contains("roll").sum() == 11
    assert 1 <= texts.str.contains("common road").sum() < 30
