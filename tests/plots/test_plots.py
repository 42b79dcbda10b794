"""Figures of a run: written, not empty, complete."""

import cv2
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from carpose.core import cars, parquet
from carpose.core.errors import UserError
from carpose.plots.figures import draw, evaluation_figure, history_figure
from tests.helpers import POSES, count_pixels, rendered, run_module


@pytest.mark.parametrize(
    "name, reason",
    [("figure", "the name has no suffix"), ("figure.doc", "doc is not a known format of images")],
)
def test_figures_need_a_known_suffix(tmp_path, name, reason):
    with pytest.raises(UserError, match=f"{name}: {reason}; name it .png"):
        draw(tmp_path / name, Figure, lenient=True)
    assert not list(tmp_path.iterdir())


def test_history_draws_what_was_measured(tmp_path):
    epochs = pd.DataFrame(
        {"epoch": range(1, 6), "loss": [5.0, 4, 3, 2, 1], "mAP": [np.nan, 0.1, np.nan, 0.2, 0.3]}
    )
    figure = history_figure({"round0/dla34/fold0": epochs, "round1/dla34/fold0": epochs.drop(columns="mAP")})
    panels = {axes.get_title(): axes.get_lines() for axes in figure.axes if axes.get_visible()}
    assert list(panels) == ["total loss", "mAP, validation fold"]
    assert [len(lines) for lines in panels.values()] == [2, 1]
    np.testing.assert_array_equal(panels["mAP, validation fold"][0].get_xdata(), [2, 4, 5])
    first, second = panels["total loss"]
    assert first.get_color() == second.get_color() and first.get_linestyle() != second.get_linestyle()


def test_validation_losses_are_in_the_panel_of_the_training_losses():
    epochs = pd.DataFrame({"epoch": [1, 2, 3], "depth": [3.0, 2, 1], "valid_depth": [np.nan, 2.5, 2.6]})
    figure = history_figure({"round0/dla34/fold0": epochs})
    (axes,) = (axes for axes in figure.axes if axes.get_visible())
    training, validation = axes.get_lines()
    np.testing.assert_array_equal(validation.get_xdata(), [2, 3])
    assert training.get_color() == validation.get_color()
    assert "validation fold" in [text.get_text() for text in figure.legends[0].get_texts()]


def test_history_of_a_single_epoch_is_visible_and_says_which_mAP_it_shows(tmp_path):
    row = {"epoch": [1], "loss": [2.0], "height": [1.0], "mAP": [0.2]}
    figure = history_figure({"round1/dla34/fold0": pd.DataFrame(row)})
    lines = {axes.get_title(): axes.get_lines()[0] for axes in figure.axes if axes.get_visible()}
    assert list(lines) == ["total loss", "height loss", "mAP, validation fold"]
    assert all(line.get_marker() == "o" for line in lines.values())
    assert count_pixels(rendered(figure, tmp_path), lines["total loss"].get_color()) > 100
    assert "evaluation.csv" in figure.get_suptitle() and "test-time views" in figure.get_suptitle()


def test_history_without_a_training_epoch_is_still_a_picture(tmp_path):
    figure = history_figure({"round0/dla34/fold0": pd.DataFrame({"epoch": [], "loss": []})})
    assert rendered(figure, tmp_path).size


def test_evaluation_is_sorted_and_complete():
    table = pd.DataFrame(
        {
            "name": ["worse", "best", "test only"],
            "oof_mAP": [0.1, 0.3, np.nan],
            "fold0_mAP": [0.09, 0.28, np.nan],
            "fold1_mAP": [0.11, 0.32, np.nan],
            "test_mAP": [0.12, np.nan, 0.2],
        }
    )
    axes = evaluation_figure(table).axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["best", "worse", "test only"]
    assert sorted(bar.get_width() for bar in axes.patches) == [0, 0, 0.1, 0.12, 0.2, 0.3]
    assert sorted(text.get_text() for text in axes.texts) == ["0.100", "0.120", "0.200", "0.300"]


def test_command_lines(photo_folder, tmp_path):
    tables = {name: tmp_path / name for name in ("cars.parquet", "images.parquet", "h.csv", "e.csv")}
    cars.write(tables["cars.parquet"], POSES)
    images = pd.DataFrame({"ImageId": list("abc"), "split": "test", "excluded": "", "phash": "0" * 16})
    parquet.write(tables["images.parquet"], images.assign(excluded=["", "broken", ""]))
    pd.DataFrame({"epoch": [1, 2], "loss": [2.0, 1.0]}).to_csv(tables["h.csv"], index=False)
    pd.DataFrame({"name": ["fused"], "oof_mAP": [0.2]}).to_csv(tables["e.csv"], index=False)
    (photo_folder / "test_images" / "b.jpg").write_bytes(b"")  # an excluded photo is not drawn
    (photo_folder / "test_images" / "._b.jpg").write_bytes(b"")  # what macOS leaves beside a photo
    predictions = ["--data", photo_folder, "--images", tables["images.parquet"]]
    predictions += ["--cars", tables["cars.parquet"], "--truth", tables["cars.parquet"], "--count", 3]
    for name, arguments in {
        "predictions": predictions,
        "history": ["--histories", f"round0/dla34/fold0={tables['h.csv']}"],
        "evaluation": ["--table", tables["e.csv"]],
    }.items():
        output = tmp_path / f"{name}.png"
        run_module("carpose.plots", name, *arguments, "--output", output)
        assert cv2.imread(str(output)).std() > 5


def failing() -> Figure:
    raise ZeroDivisionError("1 % of $nothing")


def test_a_picture_that_cannot_be_drawn(tmp_path, capsys):
    """In a run it is a warning and says why; by hand it is an error."""
    path = tmp_path / "a.png"
    with pytest.raises(ZeroDivisionError):
        draw(path, failing)
    assert not path.exists()
    draw(path, failing, lenient=True)
    assert f"warning: {path}: not drawn: ZeroDivisionError: 1 % of $nothing" in capsys.readouterr().err
    assert cv2.imread(str(path)).std() > 5


def test_a_figure_that_cannot_be_saved(tmp_path):
    """Much goes wrong only when a figure is laid out."""
    figure = Figure()
    figure.text(0, 0, "$\\nonsense{$")
    with pytest.raises(ValueError, match="nonsense"):
        draw(tmp_path / "a.png", lambda: figure)
    draw(tmp_path / "a.png", lambda: figure, lenient=True)
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def drawn(photo_folder, folder, *more, **tables):
    """`carpose.plots predictions` of tables of cars, given with the photos that they are about."""
    images = pd.DataFrame({"ImageId": list("abc"), "split": "test", "excluded": "", "phash": "0" * 16})
    parquet.write(folder / "images.parquet", images)
    options = ["--data", photo_folder, "--images", folder / "images.parquet", "--output", folder / "p.png"]
    for name, (table, image_ids) in tables.items():
        cars.write(folder / f"{name}.parquet", table, image_ids)
        options += [f"--{name}", folder / f"{name}.parquet"]
    return run_module("carpose.plots", "predictions", *options, *more, check=False)


OTHERS = POSES.assign(ImageId=POSES["ImageId"] + "_other")


@pytest.mark.parametrize(
    "tables, message",
    [
        ({"cars": (OTHERS, None)}, "cars.parquet: none of its 3 cars is on one of the 3 photos"),
        ({"cars": (OTHERS, ["a_other"])}, "cars.parquet: 3 of 3 photos were not predicted, first a"),
        ({"cars": (cars.empty(), ["a_other"])}, "cars.parquet: 3 of 3 photos were not predicted"),
        ({"cars": (POSES, None), "truth": (OTHERS, None)}, "truth.parquet: none of its 3 cars is on one of"),
    ],
)
def test_tables_of_other_photos_are_refused(photo_folder, tmp_path, tables, message):
    done = drawn(photo_folder, tmp_path, **tables)
    assert done.returncode == 2 and f"error: {tmp_path}/{message}" in done.stderr
    assert not (tmp_path / "p.png").exists()


def test_a_photo_that_is_gone_is_an_error_by_hand_and_a_warning_in_a_run(photo_folder, tmp_path):
    (photo_folder / "test_images" / "b.jpg").unlink()
    done = drawn(photo_folder, tmp_path, cars=(POSES, None))
    assert done.returncode == 2 and "b.jpg: cannot be read as a picture" in done.stderr
    done = drawn(photo_folder, tmp_path, "--lenient", cars=(POSES, None))
    assert done.returncode == 0 and "warning: " in done.stderr and "b.jpg: cannot be read" in done.stderr
    assert (tmp_path / "p.png").stat().st_size > 1000
