"""Damaged tables, fits and submissions: each command names the file and what is wrong in it.

Rows of a submission that are wrong in themselves are in tests/kaggle.
"""

import json
import re
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from carpose.core import cars, parquet
from carpose.core.errors import UserError
from carpose.fuse import __main__ as fuse
from carpose.fuse.fitted import read_fit
from carpose.kaggle import __main__ as kaggle
from carpose.kaggle.read import read_predictions
from carpose.metric import __main__ as metric
from tests.bad_input.damage import (
    Case,
    as_folder,
    cases,
    contents,
    link,
    one_error,
    recode,
    remove,
    replace,
    write,
)
from tests.helpers import POSES, PREDICTED, write_csv

TABLE = POSES.assign(score=[0.9, 0.5, 0.4], depth_sigma=0.05)
PREDICTIONS, SAMPLE, SUBMISSION, FIT = "p.parquet", "sample.csv", "submission.csv", "fit.json"


def table(**columns):
    """The predictions with other columns; None removes one."""

    def change(folder: Path) -> None:
        changed = TABLE.assign(**{name: value for name, value in columns.items() if value is not None})
        changed = changed.drop(columns=[name for name, value in columns.items() if value is None])
        parquet.write(folder / PREDICTIONS, changed, image_ids=["a", "b", "c"])

    return change


def with_about(**about):
    return lambda folder: parquet.write(folder / PREDICTIONS, TABLE, **about)


def metadata(content: bytes):
    def change(folder: Path) -> None:
        plain = pyarrow.Table.from_pandas(TABLE, preserve_index=False)
        pyarrow.parquet.write_table(
            plain.replace_schema_metadata({parquet.ABOUT: content}), folder / PREDICTIONS
        )

    return change


def categories(folder: Path) -> None:
    TABLE.assign(ImageId=TABLE["ImageId"].astype("category")).to_parquet(folder / PREDICTIONS)


TABLES = [
    Case("table without a byte", write(PREDICTIONS, b""), r"p.parquet: not a readable Parquet table"),
    Case("table cut off", recode(PREDICTIONS, lambda content: content[:-200]), r"p.parquet: not a readable"),
    Case(
        "table of zeros",
        recode(PREDICTIONS, lambda content: bytes(len(content))),
        r"p.parquet: not a readable",
    ),
    Case(
        "CSV named .parquet",
        write(PREDICTIONS, "ImageId,PredictionString\na,\n"),
        r"p.parquet: not a readable",
    ),
    Case("HTML named .parquet", write(PREDICTIONS, "<html>"), r"p.parquet: not a readable Parquet table"),
    Case("table is missing", remove(PREDICTIONS), r"p.parquet: there is no such file"),
    Case("a folder named .parquet", as_folder(PREDICTIONS), r"p.parquet: "),
    Case(
        "a table that links to itself",
        link(PREDICTIONS, PREDICTIONS),
        r"p.parquet: Too many levels of symbolic links",
    ),
    Case("no score", table(score=None), r"p.parquet: no column score"),
    Case("no ImageId", table(ImageId=None), r"p.parquet: columns missing from the table: ImageId"),
    Case("no depth", table(z=None), r"p.parquet: columns missing from the table: z"),
    Case(
        "ImageIds that are numbers", table(ImageId=[1, 2, 3]), r"p.parquet: the column ImageId must hold text"
    ),
    Case("an ImageId that is nothing", table(ImageId=["a", None, "b"]), r"p.parquet: 1 values of ImageId"),
    Case("text for numbers", table(z=["5", "6", "7"]), r"p.parquet: the column z must hold finite numbers"),
    Case("NaN in a pose", table(yaw=[0, np.nan, 0]), r"p.parquet: 1 values of yaw .*first in image a"),
    Case("an infinite position", table(x=[0, 0, np.inf]), r"p.parquet: 1 values of x .*first in image b"),
    Case("a score that is nothing", table(score=[None, 0.1, 0.2]), r"p.parquet: 1 values of score .*image a"),
    Case(
        "a score above one", table(score=[0.1, 0.2, 1.5]), r"p.parquet, image b: a score is outside \[0, 1\]"
    ),
    Case("a score below zero", table(score=[-0.1, 0.2, 0.5]), r"p.parquet, image a: a score is outside"),
    Case("a car behind the camera", table(z=[5, -5, 5]), r"p.parquet, image a: a car is not in front"),
    Case("a car at the camera", table(z=[5, 5, 0]), r"p.parquet, image b: a car is not in front"),
    Case("a car on the moon", table(z=[5, 5, 4e8]), r"p.parquet, image b: a car is farther than 10 km"),
    Case(
        "an uncertainty that is text", table(depth_sigma=["a"] * 3), r"p.parquet: the column depth_sigma must"
    ),
    Case("a negative uncertainty", table(depth_sigma=-1.0), "", ""),  # counts as unknown
    Case("unknown uncertainties", table(depth_sigma=np.nan), "", ""),
    Case("a fold that is nothing", table(fold=[0, 1, np.nan]), r"p.parquet: 1 values of fold .*image b"),
    Case("metadata that are no JSON", metadata(b"{"), r"p.parquet: not a readable Parquet table"),
    Case("metadata that are a list", metadata(b"[]"), r"p.parquet: .*metadata"),
    Case("a number for the photos", with_about(image_ids=5), r"p.parquet: .*image_ids"),
    Case("numbers among the photos", with_about(image_ids=["a", 5]), r"p.parquet: .*image_ids"),
    Case(
        "no car on any photo",
        lambda folder: cars.write(folder / PREDICTIONS, TABLE[:0], ["a", "b", "c"]),
        "",
        "",
    ),
    Case("ImageIds as categories", categories, "", ""),
]


def fitted(change):
    """The fit with its content changed by a function."""

    def damage(folder: Path) -> None:
        content = json.loads((folder / FIT).read_text())
        change(content)
        (folder / FIT).write_text(json.dumps(content))

    return damage


FITS = [
    Case("fit without a byte", write(FIT, b""), r"fit.json: not a file of carpose.fuse.fit"),
    Case(
        "fit cut off", recode(FIT, lambda content: content[:-9]), r"fit.json: not a file of carpose.fuse.fit"
    ),
    Case("fit is missing", remove(FIT), r"fit.json: no such file"),
    Case("a folder as fit", as_folder(FIT), r"fit.json: not a file of carpose.fuse.fit .*directory"),
    Case("a list as fit", write(FIT, "[]"), r"fit.json: not a file of carpose.fuse.fit"),
    Case(
        "a fit of UTF-16",
        recode(FIT, lambda content: content.decode().encode("utf-16")),
        r"fit.json: not a file",
    ),
    Case("a fit of other members", fitted(lambda c: c["members"].update(q=c["members"].pop("p"))), r"\bp\b"),
    Case("a fit without members", fitted(lambda c: c.pop("members")), r"fit.json: not a file .*'members'"),
    Case("a member without its bias", fitted(lambda c: c["members"]["p"].pop("bias")), r"fit.json: .*'bias'"),
    Case("a bias of one number", fitted(lambda c: c["members"]["p"].update(bias=[1])), r"fit.json: .*bias"),
    Case(
        "a bias that is text", fitted(lambda c: c["members"]["p"].update(bias=["a", 1])), r"fit.json: not a"
    ),
    Case(
        "a bias that is NaN",
        fitted(lambda c: c["members"]["p"].update(bias=[float("nan"), 0])),
        r"fit.json: .*bias",
    ),
    Case("no width", fitted(lambda c: c["members"]["p"].update(sigma=0.0)), r"fit.json: .*sigma"),
    Case(
        "an unknown part",
        fitted(lambda c: c["parts"].update(magic={"on": True, "gain": 1})),
        r"fit.json: .*magic",
    ),
    Case(
        "a key twice in the fit",
        replace(FIT, '"mode"', '"mode": "given", "mode"'),
        r"fit.json: .*mode occurs twice",
    ),
]


def submission(*rows):
    return lambda folder: write_csv(folder / SUBMISSION, list(rows))


def good(old="", new=""):
    return PREDICTED.replace(old, new, 1) if old else PREDICTED


ROWS = [("a", good()), ("b", ""), ("c", good())]
SUBMISSIONS = [
    Case(
        "labels as a submission",
        submission(("a", "16 0.15 -1.5 -3.1 2 4 16"), ("b", ""), ("c", "2 0.1 1 3 1 2 9")),
        r"submission.csv, line 2, image a: .*model_type.*labels",
    ),
    Case(
        "angles in degrees",
        submission(("a", "8.6 -85.9 -177.6 2 4 16 0.9"), *ROWS[1:]),
        r"in degrees",
        "note",
    ),
    Case("percent as scores", submission(("a", good("0.9", "90")), *ROWS[1:]), r"a score is outside", "note"),
    Case(
        "a score that is NaN", submission(("a", good("0.9", "nan")), *ROWS[1:]), r"line 2, image a: token 7"
    ),
    Case(
        "a score of infinity", submission(("a", good("0.9", "inf")), *ROWS[1:]), r"line 2, image a: token 7"
    ),
    Case("no score of a car", submission(("a", good(" 0.9", "")), *ROWS[1:]), r"image a: 6 numbers"),
    Case("a model type and a score", submission(("a", "16 " + good()), *ROWS[1:]), r"image a: 8 numbers"),
    Case(
        "commas between numbers",
        submission(("a", good().replace(" ", ",")), *ROWS[1:]),
        r"image a: 8 columns",
    ),
    Case("brackets", submission(("a", f"[{good()}]"), *ROWS[1:]), r"image a: token 1 .*'\[0.15'"),
    Case("a word for no car", submission(*ROWS[:1], ("b", "nan"), *ROWS[2:]), r"line 3, image b: 1 numbers"),
    Case("an image without a comma", submission(ROWS[0], ("b",), ROWS[2]), r"line 3, image b: 1 columns"),
    Case(
        "photos with their suffix",
        submission(*((f"{i}.jpg", s) for i, s in ROWS)),
        r"image a: the image is missing",
    ),
    Case(
        "ids in upper case", submission(*((i.upper(), s) for i, s in ROWS)), r"image a: the image is missing"
    ),
    Case("ids with HTML", submission(("<i>a</i>", ""), *ROWS), r"line 2, image <i>a</i>: invalid ImageId"),
    Case(
        "ids with a folder", submission(("test_images/a", ""), *ROWS), r"line 2, image test_images/a: invalid"
    ),
    Case("a row twice", submission(*ROWS, ROWS[0]), r"line 5, image a: the ImageId occurs twice"),
    Case("a header alone", submission(), r"image a: the image is missing"),
    Case("submission without a byte", write(SUBMISSION, b""), r"submission.csv, line 1: header"),
    Case("submission is missing", remove(SUBMISSION), r"submission.csv: cannot be read"),
    Case(
        "submission of semicolons",
        recode(SUBMISSION, lambda c: c.replace(b",", b";")),
        r"csv, line 1: header",
    ),
    Case(
        "a table as a submission",
        lambda folder: write(SUBMISSION, (folder / PREDICTIONS).read_bytes())(folder),
        r"submission.csv",
    ),
    Case(
        "submission of Windows",
        recode(SUBMISSION, lambda c: b"\xef\xbb\xbf" + c.replace(b"\n", b"\r\n")),
        "",
        "",
    ),
    Case("submission in another order", submission(*ROWS[::-1]), r"another order than the sample's", "note"),
]


@pytest.fixture
def folder(tmp_path) -> Path:
    """Predictions as a table and as a submission, and a fit of one member."""
    folder = tmp_path / "files"
    folder.mkdir()
    cars.write(folder / PREDICTIONS, TABLE, image_ids=["a", "b", "c"])
    write_csv(folder / SAMPLE, [(image_id, PREDICTED) for image_id in "abc"])
    write_csv(folder / SUBMISSION, ROWS)
    cars.write(folder / "truth.parquet", POSES)
    return folder


@pytest.fixture(scope="session")
def fit_text(tmp_path_factory) -> str:
    """A fit with all its parts."""
    from carpose.fuse.trial import fit_single_member
    from tests.helpers import noisy_view, scene

    rng = np.random.default_rng(0)
    truth = scene(8, rng)
    view = noisy_view(truth, rng)
    return fit_single_member(truth, {"p": view}, truth["ImageId"].unique(), "p", "given").to_json()


@cases(TABLES)
def test_the_table_is_named(case, folder, run):
    """By every command that reads one; none leaves an output."""
    case.damage(folder)
    before = contents(folder)
    output = folder / "out.parquet"
    for main, arguments in (
        (fuse.main, ("--inputs", f"p={folder / PREDICTIONS}", "--output", output)),
        (metric.main, ("--truth", folder / "truth.parquet", "--predictions", folder / PREDICTIONS)),
        (
            kaggle.main,
            ("write", folder / PREDICTIONS, "--sample", folder / SAMPLE, "--output", folder / "o.csv"),
        ),
    ):
        done = run(main, *arguments)
        if case.severity:
            one_error(done, case.message)
            assert contents(folder) == before
        else:
            assert done.status == 0 and "error" not in done.err, done


@cases(FITS)
def test_the_fit_is_named(case, folder, fit_text, run):
    (folder / FIT).write_text(fit_text)
    options = (
        "--inputs",
        f"p={folder / PREDICTIONS}",
        "--fit",
        folder / FIT,
        "--output",
        folder / "out.parquet",
    )
    assert run(fuse.main, *options).status == 0
    (folder / "out.parquet").unlink()
    case.damage(folder)
    one_error(run(fuse.main, *options), case.message)
    assert not (folder / "out.parquet").exists()


@cases(SUBMISSIONS)
def test_the_row_of_a_submission_is_named(case, folder, run):
    case.damage(folder)
    done = run(kaggle.main, "validate", folder / SUBMISSION, "--sample", folder / SAMPLE)
    text = done.out + done.err
    assert "Traceback" not in text
    if case.severity == "error":
        assert done.status in (1, 2) and re.search(f"^error: .*{case.message}", text, re.M), text
    else:
        assert done.status == 0
        assert not case.severity or re.search(f"^note: .*{case.message}", text, re.M), text


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_damage_of_a_table_is_one_line(tmp_path, data):
    path = tmp_path / PREDICTIONS
    cars.write(path, TABLE, image_ids=["a", "b", "c"])
    content = path.read_bytes()
    start = data.draw(st.integers(0, len(content) - 1))
    end = start + data.draw(st.integers(0, 30))
    path.write_bytes(content[:start] + data.draw(st.binary(max_size=30)) + content[end:])
    try:
        read_predictions(path)
    except UserError as error:
        assert str(path) in str(error) and "\n" not in str(error)


def leaves(content, above=()):
    items = content.items() if isinstance(content, dict) else enumerate(content)
    for key, value in items:
        yield (*above, key)
        if isinstance(value, dict | list):
            yield from leaves(value, (*above, key))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_value_in_a_fit_is_valid_or_refused(fit_text, tmp_path, data):
    """What is accepted fuses to finite cars."""
    from carpose.fuse.combine import fuse as fuse_tables

    content = json.loads(fit_text)
    *parents, last = data.draw(st.sampled_from(list(leaves(content))))
    section = content
    for key in parents:
        section = section[key]
    section[last] = data.draw(
        st.none()
        | st.booleans()
        | st.floats()
        | st.text(max_size=4)
        | st.lists(st.floats(), max_size=3)
        | st.dictionaries(st.text(max_size=3), st.integers(), max_size=2)
    )
    path = tmp_path / FIT
    path.write_text(json.dumps(content))
    try:
        fit = read_fit(path)
        fused = fuse_tables({"p": TABLE}, fit)
    except UserError as error:
        assert "\n" not in str(error)
        return
    assert np.isfinite(fused[[*cars.POSE, "score"]].to_numpy(float)).all()
