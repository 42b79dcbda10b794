"""Prediction: averaging of maps, and what each of its tables comes from."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import run_module

from carpose import UserError, augment, camera, cars, codec, data, fuse, ground, predict, rotation
from carpose.checkpoint import build, load_checkpoint, save_checkpoint
from carpose.recipe import Recipe

RECIPE = Recipe(backbone="dla34", width=0.125, neck_channels=16, input_width=192, input_height=64)
CPU = torch.device("cpu")
INTRINSICS = (
    camera.cells(4)
    @ camera.crop_and_resize((846, 678), [0, 0.5, 1, 1], (512, 160))
    @ np.array([[576.14, 0, 421.2], [0, 576.47, 338.4], [0, 0, 1]])
)


def checkpoint(path, provenance=None, **changes):
    """An untrained network; another seed gives other weights."""
    recipe = replace(RECIPE, **changes)
    model = build(recipe)
    save_checkpoint(path, model.state_dict(), replace(recipe, seed=0), provenance or {})
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
    teams, _ = predict.load_teams(checkpoints, CPU)
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


@pytest.mark.parametrize(
    "change", [{}, {"rotation": "quaternion"}, {"pitch_roll": "constant"}, {"position": "regressed"}], ids=str
)
def test_mirrored_photo_has_mirrored_cars(prepared, tmp_path, change):
    """What the mirror image's maps are made of: flipped maps of the mirrored picture are those of the picture
    after flipping twice."""
    path = checkpoint(tmp_path / "model.pt", seed=1, **change)
    ((model, recipe),) = predict.load_teams([[path]], CPU)[0][0]
    pictures = torch.randint(0, 255, (2, 64, 192, 4), dtype=torch.uint8)
    once = predict.flipped_forward(model, pictures, recipe, CPU)
    twice = predict.flipped_forward(model, pictures.flip(2), recipe, CPU)
    torch.testing.assert_close(twice.heatmap.flip(3), once.heatmap)
    cells = torch.arange(once.heatmap.numel())
    mirrored = cells.view(once.heatmap.shape).flip(3).flatten()
    once, twice = once.poses(cells), twice.poses(mirrored)
    yaw = 1 if recipe.rotation == "quaternion" else 0  # of the sine's channel
    turn = -twice["rotation"][:, yaw]
    sign = torch.sign(turn * once["rotation"][:, yaw]) if recipe.rotation == "quaternion" else 1
    torch.testing.assert_close(sign * turn, once["rotation"][:, yaw])
    torch.testing.assert_close(twice["depth"], once["depth"])
    torch.testing.assert_close(-twice["offset"][:, 0], once["offset"][:, 0])


def test_views_of_a_turned_camera_are_fused(prepared, models):
    """One view is what that camera sees, two are both fused, and turned by next to nothing they are one."""
    (first, _), _ = models
    teams, _ = predict.load_teams([[first]], CPU)
    ids = pd.read_parquet(prepared / "folds.parquet").ImageId.tolist()[:4]
    turns = [[1.0, -0.5, 2.0], [0.0, 0.5, 0.0]]
    seen = [
        predict.predict_view(
            teams, prepared / "cache", ids, CPU, threshold=0.001, scene=augment.turned(*turn)
        )
        for turn in turns
    ]
    plain = found(prepared, [[first]])[0]
    same(found(prepared, [[first]], turns_deg=turns[:1])[0], seen[0][0])
    assert len(plain) != len(seen[0][0]) or not np.allclose(plain.score, seen[0][0].score)
    both = fuse.fuse({"a": seen[0][0], "b": seen[1][0]})
    rest = [column for column in plain if column != "depth_sigma"]
    same(found(prepared, [[first]], turns_deg=turns)[0][rest], both[rest])
    barely = found(prepared, [[first]], turns_deg=[[0, 0, 1e-7], [0, 1e-7, 0], [1e-7, 0, 0]])[0]
    assert list(barely) == list(plain) and len(barely) <= len(plain)
    strongest = plain.sort_values(["ImageId", "score"]).groupby("ImageId").last()
    again = barely.sort_values(["ImageId", "score"]).groupby("ImageId").last()
    np.testing.assert_allclose(again["score"], strongest["score"], rtol=1e-3)
    sigma = np.minimum(strongest["depth_sigma"], fuse.SIGMA_RANGE[1])
    np.testing.assert_allclose(again["depth_sigma"], sigma, rtol=1e-3, err_msg="three times is no surer")


def test_depths_are_pooled_where_all_recipes_allow_it(prepared, tmp_path, models):
    (first, _), _ = models
    plain, pooled = (found(prepared, [[first]], pool_depth=pool)[0] for pool in (False, True))
    assert np.array_equal(plain.score, pooled.score) and not np.allclose(plain.z, pooled.z, rtol=1e-6)
    changes = ({"regression_radius": 0}, {"depth_uncertainty": False}, {"position": "regressed"})
    for number, change in enumerate(changes):
        path = checkpoint(tmp_path / f"{number}.pt", seed=1, **change)
        same(*(found(prepared, [[path]], pool_depth=pool)[0] for pool in (False, True)))
    pair = [[first], [tmp_path / "0.pt"]]  # maps of one grid, averaged
    same(*(found(prepared, pair, pool_depth=pool)[0] for pool in (False, True)))


def test_turned_view_is_turned_back():
    """A car on the maps of a turned camera comes out where it stands."""
    turn = augment.turned(1.0, -2.0, 5.0)
    xyz, own = np.array([[2.0, 5, 30]]), rotation.matrix([[0.15, 0.4, -3.1]])
    view = SimpleNamespace(map_intrinsics=INTRINSICS, focal_reference=camera.focal(INTRINSICS))
    targets = codec.encode(
        xyz @ turn.T, turn @ own, np.ones(1), INTRINSICS, (128, 40), view.focal_reference, RECIPE
    )
    maps = {name: torch.zeros(1, channels, 40, 128) for name, channels in codec.heads(RECIPE).items()}
    maps["heatmap"][:, 0] = torch.from_numpy(targets.heatmap)
    for name in ("offset", "depth", "rotation"):
        values = torch.from_numpy(getattr(targets, name)).T
        maps[name][0, : len(values), targets.cell // 128, targets.cell % 128] = values
    sight = predict.Sight(maps["heatmap"], codec.poses_of(maps))
    (car,) = predict.table(sight, view, RECIPE, ["ID_1"], 0.99, turn).itertuples()
    np.testing.assert_allclose([car.x, car.y, car.z], xyz[0], rtol=1e-4)
    np.testing.assert_allclose([car.pitch, car.yaw, car.roll], [0.15, 0.4, -3.1], atol=1e-4)


def test_a_levelled_photo_is_predicted_as_it_is_learnt_from(prepared, models):
    """The same picture; its cars are in the photo's own frame; levelled and turned back it is the photo."""
    ids = pd.read_parquet(prepared / "folds.parquet").ImageId.tolist()[:2]
    still = {"flip": 0.0, "rotate_deg": [0, 0, 0], "zoom": 0, "shift": 0, "colour": 0}
    recipe = replace(RECIPE, level_deg=2.3, **still)
    learnt = data.Samples(prepared / "cache", ids, cars.empty([*cars.POSE, "weight"]), recipe)
    seen = data.Photos(prepared / "cache", ids, recipe)
    for index in range(len(ids)):
        assert np.array_equal(learnt[0, index, index].picture, seen[index])
        assert not np.array_equal(data.Photos(prepared / "cache", ids, RECIPE)[index], seen[index])
    teams, _ = predict.load_teams([[models[0][0]]], CPU)
    network = teams[0][0][0]
    options = {"threshold": 0.001}
    plain, _ = predict.predict_cars([[(network, RECIPE)]], prepared / "cache", ids, CPU, **options)
    back = rotation.matrix(np.radians([0, 0, 2.3]))[0]
    turned, _ = predict.predict_view(
        [[(network, recipe)]], prepared / "cache", ids, CPU, scene=back @ augment.level(recipe), **options
    )
    same(turned, plain)
    levelled = [predict.predict_cars([[(network, recipe)]], prepared / "cache", ids, CPU, **options)[0]]
    levelled += predict.predict_view(
        [[(network, recipe)]], prepared / "cache", ids, CPU, scene=augment.level(recipe), **options
    )[:1]
    same(*levelled)


def test_no_car_in_the_mask(prepared, models):
    (first, _), _ = models
    ids = pd.read_parquet(prepared / "folds.parquet").ImageId.tolist()
    all_cars, rest = (found(prepared, [[first]], len(ids), mask_filter=masked)[0] for masked in (False, True))
    assert len(rest) > 0
    photos = data.Photos(prepared / "cache", ids, RECIPE)
    masks = {name: photos[number][..., 3] > 127 for number, name in enumerate(ids)}
    assert any(mask.any() for mask in masks.values())
    inside = sum(in_mask(car, masks[car.ImageId], photos) for car in all_cars.itertuples())
    assert inside > 0 and not any(in_mask(car, masks[car.ImageId], photos) for car in rest.itertuples())


def in_mask(car, mask, photos):
    """The cell that the car came from, up to the offset of an untrained network."""
    column, row = camera.project(photos.view.map_intrinsics, [car.x, car.y, car.z])
    row, column = round(row), round(column)
    return 0 <= row < 16 and 0 <= column < 48 and bool(mask[4 * row + 2, 4 * column + 2])


def test_cars_are_moved_to_the_ground_on_request(prepared, models):
    (first, _), _ = models
    prior = {"mean": [0.04, 0.16, 1.4], "covariance": np.diag([1e-6] * 3).tolist(), "height": 0.05}
    plain, moved = found(prepared, [[first]])[0], found(prepared, [[first]], grounds=[prior])[0]
    pd.testing.assert_frame_equal(moved, ground.refine(plain, prior))


def test_only_one_grid_can_be_averaged(prepared, models, tmp_path):
    other = checkpoint(tmp_path / "other.pt", input_width=256)
    with pytest.raises(UserError, match=r"other.pt: input_width is 256, but 192 in .*a0.pt"):
        predict.load_teams([[models[0][0]], [other]], CPU)
    with pytest.raises(UserError, match="as many folds"):
        predict.load_teams([models[0], [other]], CPU)
    changed = checkpoint(tmp_path / "changed.pt", epochs=7)
    with pytest.raises(UserError, match=r"changed.pt: its recipe differs from .*a0.pt"):
        predict.load_teams([[models[0][0], changed]], CPU)


def test_a_fold_s_model_predicts_its_own_photos_alone(tmp_path):
    """Given for another fold it would predict photos that it has learnt from, and call that out of fold."""
    folds = [checkpoint(tmp_path / f"{fold}.pt", provenance={"fold": fold}) for fold in (0, 1)]
    predict.load_teams([folds], CPU)
    with pytest.raises(UserError, match="1.pt: is the model of fold 1 given as fold 0's"):
        predict.load_teams([folds[::-1]], CPU)


def test_checkpoints_that_cannot_be_used(tmp_path):
    path = checkpoint(tmp_path / "whole.pt")
    content = torch.load(path, weights_only=True)
    broken = {
        "empty": b"",
        "text": b"no model, but some text",
        "half": path.read_bytes()[: path.stat().st_size // 2],
        "tensor": torch.zeros(3),
        "unknown": content | {"recipe": content["recipe"] | {"backbone": "resnet"}},
        "wider": content | {"recipe": content["recipe"] | {"width": 0.25}},
        "light": content | {"weights": {}},
        "found": {key: value for key, value in content.items() if key != "provenance"},
    }
    for name, what in broken.items():
        file = tmp_path / f"{name}.pt"
        file.write_bytes(what) if isinstance(what, bytes) else torch.save(what, file)
        with pytest.raises(
            UserError, match=rf"{name}.pt: not a checkpoint of this version \(\w+: .*train it"
        ):
            load_checkpoint(file)
    with pytest.raises(UserError, match="nowhere.pt: there is no such file"):
        load_checkpoint(tmp_path / "nowhere.pt")


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_nothing(prepared, models, workers):
    teams, _ = predict.load_teams([[models[0][0]]], CPU)
    ids = pd.read_parquet(prepared / "folds.parquet")["ImageId"].tolist()
    alone, many = (
        predict.predict_cars(teams, prepared / "cache", ids, CPU, threshold=0.001, batch=2, workers=count)[0]
        for count in (0, workers)
    )
    pd.testing.assert_frame_equal(alone, many)


def test_command_line_gives_each_photo_to_the_fold_that_never_saw_it(prepared, models, tmp_path):
    tables = {name: tmp_path / f"{name}.parquet" for name in ("oof", "test", "test-folds")}
    files = [word for name, path in tables.items() for word in (f"--{name}", path)]
    (first, second), (third, fourth) = models
    run_module(
        *("carpose.predict", "--checkpoints", first, second, "--checkpoints", third, fourth),
        *("--cache", prepared / "cache", "--images", prepared / "images.parquet"),
        *("--folds", prepared / "folds.parquet", "--threshold", 0.001, *files),
        *("--pool-depth", "--turns-deg", 0, 0.5, 0, "--turns-deg", 0, -0.5, 0),
    )
    folds = pd.read_parquet(prepared / "folds.parquet").set_index("ImageId")["fold"]
    oof = pd.read_parquet(tables["oof"])
    assert (folds[oof.ImageId].to_numpy() == oof.fold.to_numpy()).all()
    own = folds.index[folds == 1].tolist()
    teams, _ = predict.load_teams([[second], [fourth]], CPU)
    options = {"threshold": 0.001, "pool_depth": True, "turns_deg": [[0, 0.5, 0], [0, -0.5, 0]]}
    expected, _ = predict.predict_cars(teams, prepared / "cache", own, CPU, **options)
    same(oof[oof.fold == 1].reset_index(drop=True).drop(columns="fold"), expected)
    test_ids = set(pd.read_parquet(prepared / "images.parquet").query("split == 'test'").ImageId)
    assert set(pd.read_parquet(tables["test"]).ImageId) <= test_ids
    assert set(pd.read_parquet(tables["test-folds"]).fold) == {0, 1}
