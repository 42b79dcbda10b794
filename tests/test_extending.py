"""docs/extending.md: its backbone and its head, entered as it says, are trained and predict; its packages."""

import re
import shutil
import tomllib
from pathlib import Path

import pandas as pd
import pytest

from tests.helpers import ENVIRONMENT, REPOSITORY, code_blocks, options, run_module

PAGE = (REPOSITORY / "docs" / "extending.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def extended(tmp_path_factory) -> dict:
    """Where to run: in a copy of the library with the page's files and entries."""
    folder = tmp_path_factory.mktemp("extended")
    (folder / "docs").mkdir()
    shutil.copy(REPOSITORY / "config.yaml", folder)
    for name in ("workflow/carpose", "workflow/schemas", "models", "configs"):
        shutil.copytree(REPOSITORY / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name, code in code_blocks("extending.md").items():
        path = folder / name
        path.write_text(with_entry(path.read_text(), code) if path.exists() else code)
    return {"cwd": folder, "env": {**ENVIRONMENT, "PYTHONPATH": f"{folder / 'workflow'}:{folder}"}}


def with_entry(text: str, entry: str) -> str:
    """A registry with an entry at the end of BACKBONES or of HEADS."""
    start = re.search(r"^(?:BACKBONES|HEADS): .*{$", text, re.M).end()
    end = text.index("\n}\n", start) + 1
    return text[:end] + entry + text[end:]


def test_the_page_has_two_files_and_two_entries():
    blocks = code_blocks("extending.md")
    assert [(REPOSITORY / name).exists() for name in blocks] == [False, True, False, True]
    assert len(blocks["models/plain.py"].splitlines()) < 20


def test_the_configuration_knows_them(extended):
    run_module("carpose.config", **extended)
    page = (extended["cwd"] / "docs" / "configuration.md").read_text(encoding="utf-8")
    assert "hourglass, plain, or timm:NAME" in page and "list of `height`, `side`" in page
    schema = (extended["cwd"] / "workflow" / "schemas" / "config.schema.json").read_text(encoding="utf-8")
    assert "|hourglass|plain|timm:.+)$" in schema and '"side": {' in schema


@pytest.mark.slow
def test_they_are_trained_and_predict(extended, prepared, tmp_path):
    chosen = ("--backbone", "plain", "--heads", "side", "--loss-weights", "side=1.0")
    run_module(*options(prepared, tmp_path, *chosen), **extended)
    losses = pd.read_csv(tmp_path / "history.csv")["side"]
    assert losses.iloc[-1] < losses.iloc[0]
    data = ("--cache", prepared / "cache", "--images", prepared / "images.parquet")
    tables = ("--oof", tmp_path / "oof", "--test", tmp_path / "test", "--test-folds", tmp_path / "by_fold")
    more = ("--folds", prepared / "folds.parquet", "--fewer-folds", "--threshold", 0.01)
    models = ("--checkpoints", tmp_path / "model.pt")
    run_module("carpose.predict", "dataset", *models, *data, *tables, *more, **extended)
    assert set(pd.read_parquet(tmp_path / "test")["side"]) <= {"left", "right"}


def test_the_packages_are_those_of_the_contract():
    """In their order; those of one layer in any."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    layers = project["tool"]["importlinter"]["contracts"][0]["layers"][::-1]  # from below
    order = [set(layer.split(" | ")) for layer in layers]
    packages = iter(re.findall(r"^\| `(\w+)` \|", PAGE.split("## The packages")[1], re.M))
    assert [{next(packages, None) for _ in layer} for layer in order] == order and not list(packages)


def test_the_programs_of_the_page_are_there():
    for module in set(re.findall(r"python -m (carpose[\w.]*)", PAGE)):
        path = REPOSITORY / "workflow" / Path(*module.split("."))
        assert (path / "__main__.py").is_file() or path.with_suffix(".py").is_file(), module
