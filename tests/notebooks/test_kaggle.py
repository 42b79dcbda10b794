"""The notebook for Kaggle: a valid file, whose cells run the smallest demo and go on in another session."""

import os
import tarfile

import nbformat
import pandas as pd
import pytest

from carpose.kaggle.submission import validate
from carpose.kaggle.tables import read_sample
from tests.helpers import REPOSITORY

NOTEBOOK = REPOSITORY / "workflow" / "notebooks" / "kaggle.ipynb"


@pytest.fixture(scope="module")
def notebook():
    return nbformat.read(NOTEBOOK, as_version=nbformat.NO_CONVERT)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def session(notebook, monkeypatch, stop_before=None, **parameters) -> dict:
    """Run the cells in order in this process, with other parameters; the names that they leave."""
    monkeypatch.chdir(REPOSITORY)
    names = {}
    for cell in code_cells(notebook):
        if stop_before and stop_before in cell.source:
            break
        exec(compile(cell.source, str(NOTEBOOK), "exec"), names)
        if "parameters" in cell.metadata.get("tags", []):
            names.update(parameters)
    return names


def test_the_notebook_is_valid_and_clean(notebook):
    nbformat.validate(notebook)
    assert notebook.nbformat == 4
    cells = code_cells(notebook)
    assert [cell.metadata.get("tags") for cell in cells].count(["parameters"]) == 1
    assert cells[0].metadata["tags"] == ["parameters"]
    assert not any(cell.outputs or cell.execution_count for cell in cells)


def attach(folder, *files):
    for file in files:
        path = folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return folder


def test_what_is_attached_is_found_wherever_kaggle_mounts_it(notebook, monkeypatch, tmp_path):
    for number, mount in enumerate(("pku-autonomous-driving", "competitions/pku-autonomous-driving")):
        attached = attach(
            tmp_path / str(number),
            f"{mount}/camera/camera_intrinsic.txt",
            "datasets/me/carpose-wheels/wheels/snakemake-9.27.1-py3-none-any.whl",
            "carpose-weights/dla34.safetensors",
            "my-notebook/carpose-state.tar",
        )
        names = session(
            notebook,
            monkeypatch,
            stop_before="PACKAGES =",
            INPUT=attached,
            CONFIG="configs/pku.yaml",
            ON_KAGGLE=True,
        )
        assert names["DATA"] == attached / mount and names["RUN"] == "pku"
        assert names["WHEELS"].name == "wheels" and names["REPOSITORY"] == REPOSITORY
        assert [path.name for path in names["WEIGHTS"] + names["STATE"]] == [
            "dla34.safetensors",
            "carpose-state.tar",
        ]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], "no camera/camera_intrinsic.txt; attach the competition"),
        (["pku/camera/camera_intrinsic.txt"], "no snakemake-.*; attach the folder that `make wheels` makes"),
    ],
)
def test_what_is_not_attached_is_named(notebook, monkeypatch, tmp_path, files, message):
    parameters = {"INPUT": attach(tmp_path, *files), "CONFIG": "configs/pku.yaml", "ON_KAGGLE": True}
    with pytest.raises(SystemExit, match=message):
        session(notebook, monkeypatch, **parameters)


def models_of(folder):
    return {path.relative_to(folder): path.stat().st_mtime_ns for path in folder.rglob("model.pt")}


@pytest.mark.slow
def test_three_sessions_make_a_submission_and_nothing_twice(notebook, monkeypatch, tmp_path, capfd):
    """The first is stopped at once, the second trains, the third goes on from the output of the second."""

    def run(number, **parameters):
        folders = {"OUTPUT": tmp_path / f"output{number}", "WORK": tmp_path / f"work{number}"}
        folders["INPUT"] = tmp_path / f"output{number - 1}"
        names = session(notebook, monkeypatch, **folders, CONFIG="configs/ci.yaml", **parameters)
        return names["WORK"], names["OUTPUT"], names["done"], capfd.readouterr().out

    _, output, done, text = run(1, HOURS=10 / 3600)
    assert not done and (output / "carpose-state.tar").exists() and "stopping; trainings save" in text
    assert "attach this notebook's output and run it again" in text

    work, output, done, text = run(2, TARGET="trained")
    assert done and "trained is there" in text
    trained = models_of(work)
    assert len(trained) == 4
    with tarfile.open(output / "carpose-state.tar") as archive:
        names = archive.getnames()
    assert "results/ci/cache/cache.json" in names and not any("photos.npy" in name for name in names)
    assert not any(name.startswith((".snakemake/locks", ".snakemake/log")) for name in names)

    work, output, done, text = run(3)
    assert done, text[-3000:]
    again = models_of(work)
    assert len(again) == 8 and all(abs(again[path] - time) < 2000 for path, time in trained.items())
    results = work / "results" / "ci"
    image_ids = read_sample(results / "demo" / "sample_submission.csv")
    assert validate(output / "ci" / "submission.csv", image_ids)[0] == []
    assert set(pd.read_csv(output / "ci" / "evaluation.csv")["name"]) >= {"fused", "round1/dla34"}
    for name in ("pictures/predictions.png", "logs/fuse.log"):
        assert os.path.getsize(output / "ci" / name)
