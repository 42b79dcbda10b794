"""Cars → maps → cars is the identity; the heat map is what the focal loss expects."""

import numpy as np
import pytest
import torch

from benchmarks import baselines
from carpose import camera, codec, losses, rotation
from carpose.recipe import Recipe

SIZE = (128, 40)
INTRINSICS = (
    camera.cells(4)
    @ camera.crop_and_resize((846, 678), [0, 0.5, 1, 1], (512, 160))
    @ np.array([[576.14, 0, 421.2], [0, 576.47, 338.4], [0, 0, 1]])
)
FOCAL = camera.focal(INTRINSICS)


def scene(count=12, seed=0):
    """Cars spread over the view, in far-apart cells."""
    rng = np.random.default_rng(seed)
    columns = np.linspace(6, 120, count)
    uv = np.column_stack([columns, rng.uniform(8, 30, count)])
    xyz = camera.backproject(INTRINSICS, uv, rng.uniform(6, 120, count))
    sign = rng.choice([-1, 1], count)
    angles = np.column_stack(
        [
            rng.normal(0.15, 0.03, count),
            rng.uniform(-np.pi, np.pi, count),
            sign * (np.pi - rng.uniform(0, 0.05, count)),
        ]
    )
    return xyz, rotation.matrix(angles)


def perfect_maps(targets, recipe):
    """The maps of a network that learnt its targets by heart."""
    width, height = SIZE
    maps = {}
    for name, channels in codec.heads(recipe).items():
        maps[name] = torch.zeros(1, channels, height, width)
    maps["heatmap"][:, 0] = torch.from_numpy(targets.heatmap)
    rows, columns = np.divmod(targets.cell, width)
    for name in set(maps) - {"heatmap"}:
        values = torch.from_numpy(getattr(targets, name)).T
        maps[name][0, : len(values), rows, columns] = values
    return maps


def decoded(maps, recipe, threshold, **options):
    return codec.decode(
        maps["heatmap"], codec.poses_of(maps), INTRINSICS, FOCAL, recipe, threshold, **options
    )


@pytest.mark.parametrize("threshold, most", [(0.2, 1000), (0.6, 1000), (0.2, 7), (2.0, 7)])
def test_peaks_are_those_found_cell_by_cell(threshold, most):
    """In coarse steps, so that neighbours and peaks tie."""
    score = torch.randint(0, 20, (3, 17, 23), generator=torch.Generator().manual_seed(0)) / 20
    cell = codec.peaks(score, threshold, most)
    expected = []
    for picture, one in enumerate(score.numpy()):
        cells = [(row, column) for row, column in baselines.peaks(one, threshold)]
        cells.sort(key=lambda place: -one[place])  # stable, as ours
        expected += [picture * one.size + row * 23 + column for row, column in cells[:most]]
    assert cell.tolist() == expected and bool(expected) == (threshold < 1)


@pytest.mark.parametrize("depth", ["log", "direct", "inverse", "sigmoid"])
@pytest.mark.parametrize("yaw", ["egocentric", "allocentric"])
@pytest.mark.parametrize("uncertainty", [True, False])
def test_decode_inverts_encode(depth, yaw, uncertainty, change=None):
    recipe = Recipe(**{"depth": depth, "yaw": yaw, "depth_uncertainty": uncertainty} | (change or {}))
    xyz, turn = scene()
    targets = codec.encode(xyz, turn, np.ones(len(xyz)), INTRINSICS, SIZE, FOCAL, recipe)
    found = decoded(perfect_maps(targets, recipe), recipe, 0.99)
    assert len(found["xyz"]) == len(xyz)
    order = np.argsort(found["xyz"][:, 0] / found["xyz"][:, 2])
    expected = np.argsort(xyz[:, 0] / xyz[:, 2])
    np.testing.assert_allclose(found["xyz"][order], xyz[expected], rtol=2e-4, atol=2e-3)
    turns = rotation.matrix(found["angles"][order])
    np.testing.assert_allclose(turns, turn[expected], atol=2e-5)


@pytest.mark.parametrize(
    "change",
    [
        {"height_cue": True},
        {"height_cue": True, "depth_uncertainty": False},
        {"position": "regressed"},
        {"rotation": "quaternion"},
        {"rotation": "quaternion", "yaw": "allocentric"},
    ],
    ids=str,
)
def test_decode_inverts_encode_in_other_forms(change):
    test_decode_inverts_encode(uncertainty=True, depth="log", yaw="egocentric", change=change)


def test_constant_pitch_and_roll():
    recipe = Recipe(pitch_roll="constant", constant_pitch=0.2, constant_roll=-3.0)
    xyz, turn = scene()
    targets = codec.encode(xyz, turn, np.ones(len(xyz)), INTRINSICS, SIZE, FOCAL, recipe)
    assert targets.rotation.shape[1] == codec.heads(recipe)["rotation"] == 2
    found = decoded(perfect_maps(targets, recipe), recipe, 0.99)
    np.testing.assert_allclose(found["angles"][:, [0, 2]], [[0.2, -3.0]] * len(xyz))
    yaw = rotation.angles(turn)[np.argsort(xyz[:, 0] / xyz[:, 2]), 1]
    order = np.argsort(found["xyz"][:, 0] / found["xyz"][:, 2])
    np.testing.assert_allclose(found["angles"][order, 1], yaw, atol=1e-5)


def test_two_depths_are_merged_by_their_uncertainty():
    recipe = Recipe(height_cue=True)
    maps = {name: torch.zeros(1, n, 40, 128) for name, n in codec.heads(recipe).items()}
    maps["heatmap"][0, 0, 20, 60] = 1
    maps["depth"][0, 1], maps["height"][0, 1], maps["height"][0, 0] = -2.0, -5.0, 0.1
    alone = codec.DEPTH["inverse"][1](0.1) * codec.TYPICAL_DEPTH
    (z,) = decoded(maps, recipe, 0.9)["xyz"][:, 2]
    assert alone < z < alone * 1.01, "the sure one all but decides"
    maps["depth"][0, 1], maps["height"][0, 1] = -5.0, -2.0
    (z,) = decoded(maps, recipe, 0.9)["xyz"][:, 2]
    assert codec.TYPICAL_DEPTH * 0.99 < z < codec.TYPICAL_DEPTH
    # Beyond the lowest height that a car can have: what it says of itself there means nothing.
    maps["height"][0, 0], maps["height"][0, 1] = -1.5, -5.0
    found = decoded(maps, recipe, 0.9)
    assert found["xyz"][0, 2] == pytest.approx(codec.TYPICAL_DEPTH, rel=0.01)
    assert 0.005 < found["depth_sigma"][0] < 0.05


@pytest.mark.parametrize("change", [{}, {"height_cue": True}, {"depth": "inverse"}], ids=str)
def test_pooled_depths_of_perfect_maps_are_those_of_the_centres(change):
    """Far-apart cars, whose neighbouring cells have learnt nothing else."""
    recipe = Recipe(**change)
    xyz, turn = scene()
    maps = perfect_maps(codec.encode(xyz, turn, np.ones(len(xyz)), INTRINSICS, SIZE, FOCAL, recipe), recipe)
    plain, pooled = (decoded(maps, recipe, 0.9, pool_depth=pool) for pool in (False, True))
    for name in plain:
        np.testing.assert_allclose(pooled[name], plain[name], rtol=1e-5, atol=1e-5)


def test_no_cars_have_no_depths_to_pool():
    recipe = Recipe(height_cue=True)
    maps = {name: torch.zeros(1, n, 40, 128) for name, n in codec.heads(recipe).items()}
    assert decoded(maps, recipe, 0.9, pool_depth=True)["xyz"].shape == (0, 3)


def test_pooled_depths_agree_with_the_literal_loop():
    """Random outputs at all cells of a batch, those at the edges among them."""
    generator = torch.Generator().manual_seed(0)
    size = width, height = 7, 5
    maps = {
        name: torch.randn(3, channels, height, width, generator=generator)
        for name, channels in codec.heads(Recipe(height_cue=True)).items()
    }
    cells = torch.arange(3 * width * height)
    plain = codec.poses_of(maps)(cells)
    pooled = codec.pool_depths(codec.poses_of(maps), cells, size)
    assert pooled.keys() == plain.keys()
    for name in ("offset", "rotation"):
        torch.testing.assert_close(pooled[name], plain[name])
    for name in ("depth", "height"):
        for cell in cells.tolist():
            picture, row, column = cell // 35, cell // 7 % 5, cell % 7
            centre = np.array([column, row]) + plain["offset"][cell].numpy()
            total, weights = np.zeros(2), 0.0
            for y in range(max(row - 1, 0), min(row + 2, height)):
                for x in range(max(column - 1, 0), min(column + 2, width)):
                    other = picture * 35 + y * 7 + x
                    offset, value = plain["offset"][other].numpy(), plain[name][other].numpy()
                    apart = np.hypot(*(np.array([x, y]) + offset - centre)) / codec.SAME_CENTRE
                    precision = np.exp(-value[1]) ** 2
                    weight = precision * np.exp(-(offset @ offset) / 2) * np.exp(-(apart**2) / 2)
                    total, weights = total + weight * value, weights + weight
            np.testing.assert_allclose(pooled[name][cell], total / weights, rtol=1e-4, atol=1e-5)


def test_the_surest_cell_of_the_car_gives_the_depth():
    """Not one that is as sure and means another car."""
    recipe = Recipe()
    maps = {name: torch.zeros(1, n, 40, 128) for name, n in codec.heads(recipe).items()}
    maps["heatmap"][0, 0, 20, 60] = 1
    maps["offset"][0, 0, 20, 61] = -1.0  # the same centre
    maps["depth"][0, :, 20, 61] = torch.tensor([0.1, -5.0])
    maps["depth"][0, :, 20, 59] = torch.tensor([-0.5, -5.0])  # its centre: a cell away
    z = [decoded(maps, recipe, 0.9, pool_depth=pool)["xyz"][0, 2] for pool in (False, True)]
    np.testing.assert_allclose(z, codec.TYPICAL_DEPTH * np.exp([0, 0.1]), rtol=0.01)


def batch_of_four(recipe):
    """Targets of four pictures, one of them empty, with intrinsics of their own; and those of each alone."""
    scenes = [scene(count, seed) for seed, count in enumerate((12, 3, 0, 7))]
    counts = [len(xyz) for xyz, _ in scenes]
    intrinsics = np.stack([np.diag([zoom, zoom, 1]) @ INTRINSICS for zoom in (1, 1.1, 0.9, 1.05)])
    weight = np.resize([1.0, 0.7, 0.0], sum(counts))
    noise = np.resize([0.0, 0.02], sum(counts))
    xyz, turn = (np.concatenate(arrays) for arrays in zip(*scenes, strict=True))
    photo = np.repeat(np.arange(4), counts)
    together = codec.encode(xyz, turn, weight, intrinsics, SIZE, FOCAL, recipe, noise, photo)
    alone = [
        codec.encode(xyz[own], turn[own], weight[own], k, SIZE, FOCAL, recipe, noise[own])
        for k, own in zip(intrinsics, (photo == number for number in range(4)), strict=True)
    ]
    return together, alone


@pytest.mark.parametrize("change", [{}, {"height_cue": True, "yaw": "allocentric", "regression_radius": 0}])
def test_targets_of_a_batch_are_those_of_its_pictures(change):
    together, alone = batch_of_four(Recipe(**change))
    area = SIZE[0] * SIZE[1]
    for name, found in vars(together).items():
        parts = [getattr(targets, name) for targets in alone]
        if name in ("peak", "cell"):
            parts = [cells + number * area for number, cells in enumerate(parts)]
        if name.endswith("_noise"):  # none in the empty picture
            parts = [part for part in parts if part is not None]
        if found is not None:
            np.testing.assert_array_equal(found, np.concatenate(parts), err_msg=name)


@pytest.mark.parametrize("loss", ["focal", "bce"])
def test_losses_of_the_parts_sum_to_those_of_the_batch(loss):
    recipe = Recipe(heatmap_loss=loss, height_cue=True)
    (batch, _), generator, (width, height) = batch_of_four(recipe), torch.Generator().manual_seed(0), SIZE
    batch = batch.tensors()
    maps = {n: torch.randn(4, c, height, width, generator=generator) for n, c in codec.heads(recipe).items()}
    whole, total = losses.compute([maps], batch, recipe), losses.counts(batch)
    for count in (1, 2, 3, 4):
        parts = codec.split(torch.arange(4), batch, count)
        assert torch.equal(torch.cat([pictures for pictures, _ in parts]), torch.arange(4))
        sums = dict.fromkeys(whole, 0.0)
        for pictures, own in parts:
            found = {name: value[pictures] for name, value in maps.items()}
            for name, value in losses.compute([found], own, recipe, total).items():
                sums[name] += float(value)
        assert sums == pytest.approx({name: float(value) for name, value in whole.items()}, rel=1e-5)


@pytest.mark.parametrize("crowded", [False, True])
def test_targets_agree_with_the_literal_loop(crowded):
    """Cell by cell the same; the heat map is cut off beyond three σ."""
    recipe = Recipe()
    xyz, turn = scene(40)
    if crowded:
        xyz, turn = np.concatenate([xyz, xyz * [1.02, 1, 1]]), np.concatenate([turn, turn[::-1]])
    ours = codec.encode(xyz, turn, np.ones(len(xyz)), INTRINSICS, SIZE, FOCAL, recipe)
    heatmap, cells = baselines.targets(xyz, turn, INTRINSICS, SIZE, FOCAL, recipe)
    near = heatmap > np.exp(-4.5)
    np.testing.assert_allclose(ours.heatmap[0][near], heatmap[near], rtol=1e-6)
    assert (ours.heatmap[0] <= heatmap + 1e-6).all()
    assert ours.cell.tolist() == sorted(y * SIZE[0] + x for y, x in cells)
    rows = [cells[divmod(cell, SIZE[0])] for cell in ours.cell.tolist()]
    for name, column in (("weight", 1), ("offset", 2), ("depth", 3), ("rotation", 4)):
        expected = np.array([row[column] for row in rows])
        found = getattr(ours, name)
        np.testing.assert_allclose(found.reshape(expected.shape), expected, rtol=1e-5, atol=1e-6)


def test_zoomed_picture_decodes_to_the_same_depth():
    """Depth is learnt relative to the focal length: a zoomed view of the same car has another target."""
    recipe = Recipe()
    xyz, turn = scene(1)
    zoom = np.diag([1.3, 1.3, 1.0])
    plain = codec.encode(xyz, turn, np.ones(1), INTRINSICS, (256, 80), FOCAL, recipe)
    zoomed = codec.encode(xyz, turn, np.ones(1), zoom @ INTRINSICS, (256, 80), FOCAL, recipe)
    np.testing.assert_allclose(np.exp(plain.depth - zoomed.depth), 1.3, rtol=1e-5)


def test_heatmap_is_a_maximum_with_peaks_of_one():
    xyz, turn = scene(30)
    xyz = np.concatenate([xyz, xyz + [0.3, 0, 0]])  # overlapping bumps
    turn = np.concatenate([turn, turn])
    targets = codec.encode(xyz, turn, np.ones(len(xyz)), INTRINSICS, SIZE, FOCAL, Recipe())
    assert targets.heatmap.max() == 1.0
    np.testing.assert_array_equal(targets.heatmap.reshape(-1)[targets.peak], 1.0)


def test_cars_outside_the_picture_or_behind_have_no_target():
    xyz = np.array([[500.0, 5, 20], [0, 5, -10], [0, 5, 25]])
    targets = codec.encode(xyz, np.stack([np.eye(3)] * 3), np.ones(3), INTRINSICS, SIZE, FOCAL, Recipe())
    assert len(targets.peak) == 1


def test_no_car_gives_empty_targets():
    targets = codec.encode(
        np.empty((0, 3)), np.empty((0, 3, 3)), np.empty(0), INTRINSICS, SIZE, FOCAL, Recipe()
    )
    assert len(targets.cell) == 0 and targets.heatmap.max() == 0


def test_unsure_car_is_neither_positive_nor_negative():
    xyz, turn = scene(1)
    targets = codec.encode(xyz, turn, np.zeros(1), INTRINSICS, SIZE, FOCAL, Recipe())
    assert targets.ignore.sum() >= 5 and len(targets.peak) == 0 and len(targets.cell) == 0
    batch = targets.tensors()
    logits = torch.zeros(1, 1, SIZE[1], SIZE[0], requires_grad=True)
    losses.heatmap_focal(logits, batch).backward()
    assert (logits.grad[:, 0][torch.from_numpy(targets.ignore)] == 0).all()
    assert (logits.grad[:, 0][torch.from_numpy(~targets.ignore)] != 0).all()


def test_two_cars_in_one_cell_keep_one():
    xyz, turn = scene(1)
    both = np.concatenate([xyz, xyz * 1.0001])
    targets = codec.encode(both, np.concatenate([turn, turn]), np.ones(2), INTRINSICS, SIZE, FOCAL, Recipe())
    assert len(targets.peak) == 1 and len(np.unique(targets.cell)) == len(targets.cell)


def test_focal_loss_against_the_formula():
    """CornerNet eq. 1, cell by cell, in plain Python."""
    rng = np.random.default_rng(3)
    xyz, turn = scene(5)
    targets = codec.encode(xyz, turn, np.ones(5), INTRINSICS, SIZE, FOCAL, Recipe())
    logits = rng.normal(size=(1, 1, SIZE[1], SIZE[0]))
    p = 1 / (1 + np.exp(-logits[0, 0]))
    y = targets.heatmap[0].astype(float)
    value = np.where(y == 1, (1 - p) ** 2 * -np.log(p), (1 - y) ** 4 * p**2 * -np.log(1 - p)).sum() / 5
    found = losses.heatmap_focal(torch.tensor(logits), targets.tensors())
    assert float(found) == pytest.approx(value, rel=1e-4)


def test_losses_vanish_for_perfect_maps():
    recipe = Recipe(depth_uncertainty=False)
    xyz, turn = scene()
    targets = codec.encode(xyz, turn, np.ones(len(xyz)), INTRINSICS, SIZE, FOCAL, recipe)
    maps = perfect_maps(targets, recipe)
    maps["heatmap"] = torch.where(maps["heatmap"] == 1, 20.0, -20.0)
    for name, value in losses.compute([maps], targets.tensors(), recipe).items():
        assert abs(float(value)) < 1e-5, name


def test_beta_weighs_an_error_by_its_scale():
    """Twice the scale, 2^β times the weight; at the usual scale and for β = 0 as by the likelihood alone."""
    xyz, turn = scene()
    targets = codec.encode(xyz, turn, np.ones(len(xyz)), INTRINSICS, SIZE, FOCAL, Recipe()).tensors()
    maps = {name: torch.zeros(1, n, SIZE[1], SIZE[0]) for name, n in codec.heads(Recipe()).items()}

    def pull(scale, **change):
        depth = torch.cat([torch.zeros(1, 1, *SIZE[::-1]), torch.full((1, 1, *SIZE[::-1]), scale)], 1)
        depth.requires_grad_()
        losses.compute([{**maps, "depth": depth}], targets, Recipe(**change))["depth"].backward()
        return float(depth.grad[:, 0].abs().sum())

    usual, wide = losses.USUAL_SCALE, losses.USUAL_SCALE + np.log(2)
    assert pull(usual, depth_beta=0.5) == pytest.approx(pull(usual))
    assert pull(wide, depth_beta=0.5) == pytest.approx(pull(wide) * 2**0.5)


def test_flipped_prediction_maps_back():
    """flipped_forward of a network that knows the answer for a picture and its mirror image is the answer."""
    from carpose.predict import flipped_forward

    recipe = Recipe()
    xyz, turn = scene()
    targets = codec.encode(xyz, turn, np.ones(len(xyz)), INTRINSICS, SIZE, FOCAL, recipe)
    flip = np.array([[-1, 0, SIZE[0] - 1], [0, 1, 0], [0, 0, 1]]) @ INTRINSICS @ rotation.MIRROR
    mirrored = codec.encode(
        xyz @ rotation.MIRROR,
        rotation.MIRROR @ turn @ rotation.MIRROR,
        np.ones(len(xyz)),
        flip,
        SIZE,
        FOCAL,
        recipe,
    )
    answers = {False: perfect_maps(targets, recipe), True: perfect_maps(mirrored, recipe)}

    class Knowing:
        def __call__(self, inputs):
            maps = answers[bool(inputs[0, 0, 0, 0] < inputs[0, 0, 0, -1])]
            return torch.logit(maps["heatmap"].clamp(1e-6, 1 - 1e-6)), maps

        def poses(self, maps, cells):
            return codec.poses_of(maps)(cells)

    picture = torch.zeros(1, 160, 512, 4, dtype=torch.uint8)
    picture[:, :, 0] = 255
    sight = flipped_forward(Knowing(), picture, recipe, torch.device("cpu"))
    found = codec.decode(sight.heatmap, sight.poses, INTRINSICS, FOCAL, recipe, 0.9)
    assert len(found["xyz"]) == len(xyz)
    order = np.argsort(found["xyz"][:, 0] / found["xyz"][:, 2])
    expected = np.argsort(xyz[:, 0] / xyz[:, 2])
    np.testing.assert_allclose(found["xyz"][order], xyz[expected], rtol=1e-3, atol=5e-3)


@pytest.mark.parametrize("depth", ["log", "direct", "inverse", "sigmoid"])
def test_noise_of_a_label_is_in_the_units_of_its_target(depth):
    """A car as much farther as its label's error may be has a target as much apart as the noise says."""
    recipe = Recipe(depth=depth)
    xyz, turn = np.array([[1.0, 1.5, 20.0]]), np.eye(3)[None]
    near, far = (
        codec.encode(xyz * factor, turn, np.ones(1), INTRINSICS, SIZE, FOCAL, recipe, np.array([0.02]))
        for factor in (1, np.exp(0.002))
    )
    assert near.depth_noise[0, 0] * np.sqrt(2) / 0.02 == pytest.approx(
        abs(float(far.depth[0, 0]) - float(near.depth[0, 0])) / 0.002, rel=0.01
    )
    sure = codec.encode(xyz, turn, np.ones(1), INTRINSICS, SIZE, FOCAL, recipe)
    assert "depth_noise" not in sure.tensors(), "of a true label"
