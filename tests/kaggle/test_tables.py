"""The competition's CSV files are read, and every error in them is reported."""

import time

import numpy as np
import pytest

from carpose.core import cars
from carpose.core.errors import UserError
from carpose.kaggle.submission import validate
from carpose.kaggle.tables import LABEL, parse, read_labels, read_sample, read_submission
from tests.helpers import CAR, PREDICTED, street_labels, write_csv


def test_labels_are_read(tmp_path):
    path = write_csv(tmp_path / "train.csv", [("b", f"{CAR} {CAR}"), ("empty", ""), ("a", CAR)])
    table, image_ids = read_labels(path)
    assert image_ids == ["b", "empty", "a"]
    assert table["ImageId"].tolist() == ["b", "b", "a"]
    assert table["model_type"].dtype.kind == "i" and table["model_type"].tolist() == [16] * 3
    assert table.loc[0, cars.POSE].tolist() == [0.15, -1.5, -3.1, 2.0, 4.0, 16.0]


def test_a_file_without_any_car(tmp_path):
    table, image_ids = read_submission(write_csv(tmp_path / "s.csv", [("a", ""), ("b", "")]))
    assert table.empty and image_ids == ["a", "b"] and {"ImageId", "score", *cars.POSE} == set(table)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (("b", CAR.replace("-1.5", "-1,5")), "line 3, image b: 3 columns"),
        (("b", CAR.replace("-1.5", "x1")), "line 3, image b: token 3 .*yaw of car 1.*'x1' is not a number"),
        (("b", f"{CAR} {CAR.replace('16.0', 'nan')}"), "line 3, image b: token 14 .*z of car 2.*not finite"),
        (("b", CAR.replace("16 ", "1.5 ")), "line 3, image b: token 1 .*model_type.*not an integer"),
        (("b", CAR.replace("16 ", "1e300 ")), "line 3, image b: token 1 .*model_type.*not an integer"),
        (("b", CAR[:-5]), "line 3, image b: 6 numbers, which is not a multiple of 7"),
        (("a", CAR), "line 3, image a: the ImageId occurs twice"),
        (("../a", CAR), "line 3, image ../a: invalid ImageId '../a'"),
        (("", CAR), "line 3: invalid ImageId ''"),
        (("b ", CAR), "line 3, image b: invalid ImageId 'b '; use letters"),
        (("b\u00a0", CAR), r"line 3, image b: invalid ImageId 'b\\xa0'; use letters"),
        (
            ("b", CAR.replace("2.0", "2_0")),
            "line 3, image b: token 5 .*'2_0' is not a number of the digits 0 to 9",
        ),
        (("b", CAR.replace("2.0", "\u0662.0")), "line 3, image b: token 5 .* is not a number of the digits"),
        (("b", CAR.replace("2.0 ", "2.0\u00a0")), "line 3, image b: 6 numbers, which is not a multiple"),
        (("b", CAR.replace("2.0", "2.0\u00a0")), r"line 3, image b: token 5 .*'2.0\\xa0' is not a number of"),
    ],
)
def test_errors_name_file_line_image_and_token(tmp_path, row, message):
    path = write_csv(tmp_path / "train.csv", [("a", CAR), row, ("c", CAR)])
    with pytest.raises(UserError, match=f"train.csv, {message}"):
        read_labels(path)


def test_a_photo_with_more_cars_than_python_s_csv_reads(tmp_path):
    path = write_csv(tmp_path / "s.csv", [("a", " ".join([PREDICTED] * 5000)), ("b", "")])
    assert len(read_submission(path)[0]) == 5000


def test_valid_rows_are_read_and_each_invalid_row_is_reported(tmp_path):
    path = write_csv(
        tmp_path / "train.csv", [("a", "x"), ("b", CAR), ("c", CAR + " 1"), ("d", "inf" + CAR[2:])]
    )
    table, rows, findings = parse(path, LABEL)
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
def test_invalid_cars_are_not_read(tmp_path, car, message):
    path = write_csv(tmp_path / "s.csv", [("a", PREDICTED), ("b", car)])
    with pytest.raises(UserError, match=f"s.csv, line 3, image b: .*{message}") as error:
        read_submission(path, strict=True)
    assert [str(error.value)] == list(map(str, validate(path, ["a", "b"])[0]))
    assert read_sample(path) == ["a", "b"]  # the cars of a sample are not checked


def test_what_the_competition_accepts_is_read_as_written_with_a_note(tmp_path, capsys):
    """One note per check, with the number of cars and the first; with strict they are errors."""
    turned, high_score = PREDICTED.replace("-1.5", "3.15"), PREDICTED.replace("0.9", "42")
    rows = [("0", "b", high_score), ("1", "a", f"{turned} {PREDICTED}"), ("2", "c", f"{turned} {high_score}")]
    path = write_csv(tmp_path / "s.csv", rows)
    text = path.read_text()
    for header in ("", "Unnamed: 0"):
        path.write_text(f"{header},{text}")
        table, image_ids = read_submission(path)
        assert image_ids == ["b", "a", "c"]
        assert table["yaw"].tolist() == [-1.5, 3.15, -1.5, 3.15, -1.5]
        assert table["score"].tolist() == [42, 0.9, 0.9, 0.9, 42]
        notes = capsys.readouterr().err.splitlines()
        expected = [
            "line 1: 3 rows with a column of row numbers; the column is ignored",
            "line 3, image a: 2 cars, first here: an angle is outside ±π; it is kept as written",
            "line 2, image b: 2 cars, first here: a score is outside [0, 1]; only the order counts: 0 … 42",
        ]
        assert len(notes) == 3
        assert all(
            note.startswith(f"note: {path}, {text}") for note, text in zip(notes, expected, strict=True)
        )
        with pytest.raises(UserError, match="line 1: header ImageId,PredictionString expected"):
            read_submission(path, strict=True)


def test_errors_are_reported_with_row_numbers_too(tmp_path, capsys):
    rows = [("0", "a", CAR), ("1", "b", "x"), ("2", "c"), ("d",)]
    path = write_csv(tmp_path / "train.csv", rows)
    path.write_text("," + path.read_text())
    with pytest.raises(UserError, match=r"train.csv, line 3, image b: 1 numbers.*\(and 2 more\)"):
        read_labels(path)
    _, _, findings = parse(path, LABEL)
    assert [f.ImageId for f in findings if "columns instead of 3" in f.finding] == ["c", "d"]
    path.write_text(path.read_text().replace(",ImageId", "number,ImageId", 1))
    with pytest.raises(UserError, match="line 1: header .* found 'number,ImageId"):
        read_labels(path)
    write_csv(path, [("0", "a", CAR)])
    path.write_text("," + path.read_text())
    assert read_labels(path)[1] == ["a"] and "column of row numbers" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (("a " * 2000, PREDICTED), "invalid ImageId"),
        (('"a\n' * 2000 + '"', PREDICTED), "line 3: .*quotation mark"),
        (("a" * 4000,), "line 3, image a+…: 1 columns instead of 2"),
        (("a", "x" * 4000 + PREDICTED[4:]), "token 1 .* 'x+…' is not a number"),
    ],
)
def test_long_texts_are_truncated_in_messages(tmp_path, row, message):
    path = write_csv(tmp_path / "s.csv", [("b", PREDICTED), row])
    with pytest.raises(UserError, match=message) as error:
        read_submission(path)
    assert len(str(error.value).removeprefix(str(path))) < 250 and "\n" not in str(error.value)


def test_an_open_quotation_mark_is_named_where_it_stands(tmp_path):
    rows = [("a", PREDICTED), ("", ""), ("b", '"' + PREDICTED), *((f"c{i}", PREDICTED) for i in range(9000))]
    path = write_csv(tmp_path / "s.csv", rows)
    path.write_text(path.read_text().replace("\n,\n", "\n\n"))  # a blank line, which is skipped
    for text in (path.read_text(), path.read_text()[:2000]):  # above and below the limit of Python's csv
        path.write_text(text)
        with pytest.raises(UserError, match="s.csv, line 4: .*; close or remove the quotation mark") as error:
            read_submission(path)
        assert len(str(error.value)) < 250


def test_unreadable_files(tmp_path):
    with pytest.raises(UserError, match=r"no.csv: cannot be read"):
        read_labels(tmp_path / "no.csv")
    (tmp_path / "other.csv").write_text("image,cars\na,\n")
    with pytest.raises(UserError, match=r"other.csv, line 1: header"):
        read_labels(tmp_path / "other.csv")
    (tmp_path / "page.csv").write_text("<html>" * 1000)
    with pytest.raises(UserError, match=r"line 1: header .* found '<html>") as error:
        read_labels(tmp_path / "page.csv")
    assert len(str(error.value)) < 250
    (tmp_path / "binary.csv").write_bytes(bytes([255, 216, 255, 0]))
    with pytest.raises(UserError, match=r"binary.csv"):
        read_labels(tmp_path / "binary.csv")


def test_real_labels_are_read_in_a_second(real):
    start = time.perf_counter()
    table, image_ids = read_labels(real / "train.csv")
    assert time.perf_counter() - start < 2  # 0.25 s on an idle machine
    assert (len(table), len(image_ids)) == (49684, 4262)
    assert table["model_type"].nunique() == 34
    assert table["pitch"].median() == pytest.approx(0.15, abs=0.02)  # the first angle is the pitch
    assert len(read_sample(real / "sample_submission.csv")) == 2021


def test_generated_labels_are_read_to_the_last_digit(labels_csv):
    table, image_ids = read_labels(labels_csv)
    expected = street_labels()
    assert image_ids == expected["ImageId"].unique().tolist()
    assert (table[["ImageId", "model_type"]] == expected[["ImageId", "model_type"]]).all(axis=None)
    np.testing.assert_array_equal(table[cars.POSE], expected[cars.POSE])
