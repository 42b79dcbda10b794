"""Prediction: averaging of maps, and what each of its tables comes from."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import run_module

from carpose import UserError, predict
from carpose.checkpoint import build, save_checkpoint
from carpose.recipe import Recipe

RECIPE = Recipe(backbone="dla34", width=0.125, neck_channels=16, input_width=192, input_height=64)
CPU = torch.device("cpu")


def checkpoint(path, **changes):
    """An untrained network; another seed gives other weights."""
    recipe = replace(RECIPE, **changes)
    model = build(recipe)
    save_checkpoint(path, model.state_dict(), replace(recipe, seed=0), {})
    return path


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """By model and fold."""
    folder = tmp_path_factory.mktemp("models")
    return [
        [checkpoint(folder / "a0.pt", seed=1), checkpoint(folder / "a1.pt", seed=2)],
        [
            checkpoint(folder / "b0.pt", seed=3, backbone="hourglass", stacks=1),
            checkpoint(folder / "b1.pt", seed=4, backbone="hourglass", stacks=1),
        ],
    ]


def found(prepared, checkpoints, images=4, **options):
    teams = predict.load_teams(checkpoints, CPU)
    ids = pd.read_parquet(prepared / "folds.parquet").ImageId.tolist()[:images]
    return predict.predict_cars(teams, prepared / "cache", ids, CPU, threshold=0.001, **options)


def same(a, b):
    assert len(a) == len(b) > 0 and (a.ImageId.to_numpy() == b.ImageId.to_numpy()).all()
    numbers = [name for name in a if name != "ImageId"]
    np.testing.assert_allclose(a[numbers], b[numbers], rtol=1e-4, atol=1e-4)


def test_a_model_averaged_with_itself_is_that_model(prepared, models):
    (first, _), _ = models
    same(found(prepared, [[first]])[0], found(prepared, [[first], [first]])[0])


def test_teams_alone_and_together(prepared, models):
    together, alone = found(prepared, models)
    assert len(alone) == 2
    for fold, table in enumerate(alone):
        same(table, found(prepared, [[models[0][fold]], [models[1][fold]]])[0])
    assert len(together) != len(alone[0]) or not np.allclose(together.score, alone[0].score)


def test_only_one_grid_can_be_averaged(prepared, models, tmp_path):
    other = checkpoint(tmp_path / "other.pt", input_width=256)
    with pytest.raises(UserError, match=r"other.pt: input_width is 256, but 192 in .*a0.pt"):
        predict.load_teams([[models[0][0]], [other]], CPU)
    with pytest.raises(UserError, match="as many folds"):
        predict.load_teams([models[0], [other]], CPU)
    changed = checkpoint(tmp_path / "changed.pt", epochs=7)
    with pytest.raises(UserError, match=r"changed.pt: its recipe differs from .*a0.pt"):
        predict.load_teams([[models[0][0], changed]], CPU)


def test_command_line_gives_each_photo_to_the_fold_that_never_saw_it(prepared, models, tmp_path):
    tables = {name: tmp_path / f"{name}.parquet" for name in ("oof", "test", "test-folds")}
    files = [word for name, path in tables.items() for word in (f"--{name}", path)]
    (first, second), (third, fourth) = models
    run_module(
        *("carpose.predict", "--checkpoints", first, second, "--checkpoints", third, fourth),
        *("--cache", prepared / "cache", "--images", prepared / "images.parquet"),
        *("--folds", prepared / "folds.parquet", "--threshold", 0.001, *files),
    )
    folds = pd.read_parquet(prepared / "folds.parquet").set_index("ImageId")["fold"]
    oof = pd.read_parquet(tables["oof"])
    assert (folds[oof.ImageId].to_numpy() == oof.fold.to_numpy()).all()
    own = folds.index[folds == 1].tolist()
    teams = predict.load_teams([[second], [fourth]], CPU)
    expected, _ = predict.predict_cars(teams, prepared / "cache", own, CPU, threshold=0.001)
    same(oof[oof.fold == 1].reset_index(drop=True).drop(columns="fold"), expected)
    test_ids = set(pd.read_parquet(prepared / "images.parquet").query("split == 'test'").ImageId)
    assert set(pd.read_parquet(tables["test"]).ImageId) <= test_ids
    assert set(pd.read_parquet(tables["test-folds"]).fold) == {0, 1}
