"""Training as its user runs it: deterministic, resumable, never silent about a loss that is not finite."""

import io
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import REPOSITORY, run_module

from carpose import UserError, codec, data, distributed, graphs, ground, losses
from carpose.checkpoint import load_checkpoint, save_checkpoint
from carpose.optim import rate_schedule, scaled_rate
from carpose.recipe import Recipe
from carpose.training import Training

TINY = (
    "--backbone dla34 --width 0.125 --neck-channels 16 --input-width 192 --input-height 64"
    " --batch-size 2 --epochs 3"
)


def options(prepared, folder, *more):
    return [
        *("carpose.train", "--cache", prepared / "cache", "--images", prepared / "images.parquet"),
        *("--labels", prepared / "labels.parquet", "--folds", prepared / "folds.parquet", "--fold", 0),
        *(
            "--output",
            folder / "model.pt",
            "--history",
            folder / "history.csv",
            "--state",
            folder / "state.pt",
        ),
        *TINY.split(),
        *more,
    ]


@pytest.fixture(scope="module")
def undisturbed(prepared, tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    run_module(*options(prepared, folder, "--tensorboard", folder / "events"))
    return folder


def test_history_and_checkpoint(undisturbed):
    history = pd.read_csv(undisturbed / "history.csv")
    assert list(history.epoch) == [1, 2, 3]
    assert np.isfinite(history[["loss", "heatmap", "offset", "depth", "rotation", "mAP"]]).all(axis=None)
    _, recipe, provenance = load_checkpoint(undisturbed / "model.pt")
    assert recipe.backbone == "dla34" and provenance["code"] and provenance["data"]
    assert not (undisturbed / "state.pt").exists()


def test_tensorboard_has_the_history(undisturbed):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(undisturbed / "events"))
    events.Reload()
    history = pd.read_csv(undisturbed / "history.csv")
    assert [event.step for event in events.Scalars("depth")] == [1, 2, 3]
    np.testing.assert_allclose([event.value for event in events.Scalars("depth")], history.depth, rtol=1e-6)


def test_killed_at_random_it_ends_bit_identical(prepared, undisturbed, tmp_path):
    """SIGKILL at random moments, with a state written after nearly every step."""
    random.seed(4)
    command = options(prepared, tmp_path, "--save-minutes", 0.0001)
    kills = 0
    for _ in range(3):
        waited = random.uniform(0.1, 1.5)
        path = tmp_path / "state.pt"
        before = path.stat().st_mtime_ns if path.exists() else 0
        process = run_background(command)
        while process.poll() is None and not (path.exists() and path.stat().st_mtime_ns > before):
            time.sleep(0.02)
        time.sleep(waited)
        if process.poll() is None:
            process.kill()
            kills += 1
        process.wait()
    assert kills, "the training was over before it could be killed"
    run_module(*command)
    assert (tmp_path / "model.pt").read_bytes() == (undisturbed / "model.pt").read_bytes()


@pytest.mark.parametrize("workers", [0, 2])
def test_sigterm_saves_and_leaves(prepared, undisturbed, tmp_path, workers):
    """To the whole group of processes, as Slurm and torchrun send it."""
    command = options(prepared, tmp_path, "--workers", workers)
    process = run_background(command, start_new_session=True)
    while "epoch 1/3" not in process.stdout.readline():
        assert process.poll() is None
    os.killpg(process.pid, signal.SIGTERM)
    assert process.wait(60) == 143
    assert (tmp_path / "state.pt").exists() and not (tmp_path / "model.pt").exists()
    assert "going on at epoch" in run_module(*command).stdout
    assert (tmp_path / "model.pt").read_bytes() == (undisturbed / "model.pt").read_bytes()


def test_a_second_training_of_the_same_state_waits(prepared, undisturbed, tmp_path):
    """As after a kill of Snakemake: the orphan is left alone, and what it has done is gone on from."""
    command = options(prepared, tmp_path)
    orphan = run_background(command)
    while "epoch 1/3" not in orphan.stdout.readline():
        assert orphan.poll() is None
    orphan.send_signal(signal.SIGSTOP)
    second = run_background(command, stderr=subprocess.PIPE)
    assert "another training is at work" in second.stderr.readline()
    assert second.poll() is None and not (tmp_path / "model.pt").exists()
    orphan.kill()
    assert "going on at epoch" in second.communicate(timeout=120)[0]
    assert second.returncode == 0
    assert (tmp_path / "model.pt").read_bytes() == (undisturbed / "model.pt").read_bytes()
    assert not list(tmp_path.glob("state.pt*"))


def run_background(command, **more):
    path = os.pathsep.join([str(REPOSITORY / "workflow"), str(REPOSITORY)])
    return subprocess.Popen(
        [sys.executable, "-m", *map(str, command)],
        env={**os.environ, "PYTHONPATH": path, "CUDA_VISIBLE_DEVICES": ""},
        stdout=subprocess.PIPE,
        text=True,
        **more,
    )


def test_infinite_loss_stops_and_names_the_photos(prepared, tmp_path):
    done = run_module(
        *options(prepared, tmp_path, "--heatmap-weight", 1e39),  # infinite in float32
        check=False,
    )
    assert done.returncode == 2
    assert "loss is not finite" in done.stderr and "epoch" in done.stderr and "ID_" in done.stderr
    assert not (tmp_path / "model.pt").exists()


@pytest.mark.parametrize(
    "wrong, message",
    [
        (("--batch-size", 0), "batch_size: 0 is not right; it must be at least 1"),
        (("--lr", "nan", "--radius", 0), "lr: nan is not right; it must be a finite number"),
        (("--input-width", 33), "input_width: 33 is not right; it must be a multiple of 32"),
        (("--crop", 1, 1, 0, 0), "crop: [1.0, 1.0, 0.0, 0.0] is not right; use left top right bottom"),
        (("--fold", -1), "argument --fold: '-1' is not right; use an integer from 0 on"),
        (("--state", "."), ".: is a folder; name a file"),
    ],
)
def test_what_cannot_be_trained_is_said_first(prepared, tmp_path, wrong, message):
    done = run_module(*options(prepared, tmp_path, *wrong), check=False, cwd=tmp_path)
    assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


def test_going_back_halves_the_rate_of_what_failed(prepared, undisturbed, tmp_path):
    """Also where the state that it goes back to was saved after an earlier failure."""
    folds = pd.read_parquet(prepared / "folds.parquet")
    steps = int((folds.fold != 0).sum()) // 2
    # Of all steps' losses in turn, the second of epoch 2 and, after that was trained again, of epoch 3.
    broken = [steps + 1, 2 * steps + 3]
    faulty = (
        "import itertools, sys; from carpose import train, training; number = itertools.count();"
        f"training.Training.is_broken = lambda self, values: next(number) in {broken}; sys.exit(train.main())"
    )
    _, *command = options(prepared, tmp_path, "--nan", "back")
    path = os.pathsep.join([str(REPOSITORY / "workflow"), str(REPOSITORY)])
    done = subprocess.run(
        [sys.executable, "-c", faulty, *map(str, command)],
        env={**os.environ, "PYTHONPATH": path, "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "back to epoch 2 at 0.5 of the rate" in done.stdout
    assert "back to epoch 3 at 0.25 of the rate" in done.stdout
    usual, halved = (pd.read_csv(folder / "history.csv").lr for folder in (undisturbed, tmp_path))
    np.testing.assert_allclose(halved / usual, [1, 0.5, 0.25])


def test_photos_left_out_are_not_learnt_from(prepared, tmp_path):
    folds = pd.read_parquet(prepared / "folds.parquet").sort_values("ImageId")
    first, *rest = folds.ImageId[folds.fold != 0]
    (tmp_path / "all").mkdir()
    for folder, more in ((tmp_path, ["--leave-out", ",".join(rest[1:])]), (tmp_path / "all", [])):
        run_module(*options(prepared, folder, "--epochs", 1, "--batch-size", 1, *more))
    two, every = (torch.load(folder / "model.pt") for folder in (tmp_path, tmp_path / "all"))
    assert any(not torch.equal(two["weights"][name], every["weights"][name]) for name in two["weights"])
    labels = pd.read_parquet(prepared / "labels.parquet")
    own = labels[labels.ImageId.isin([first, rest[0]])]
    assert two["provenance"]["ground"] == ground.fit_prior(own)
    done = run_module(*options(prepared, tmp_path, "--leave-out", "ID_nobody"), check=False)
    assert done.returncode == 2 and "leave_out: ID_nobody is not among the training photos" in done.stderr


def test_neither_workers_nor_a_stop_change_the_samples(prepared):
    recipe = Recipe(input_width=192, input_height=64, batch_size=2, mask_channel=True)
    labels = pd.read_parquet(prepared / "labels.parquet").assign(weight=1.0)
    ids = sorted(labels.ImageId.unique())
    samples = data.Samples(prepared / "cache", ids, labels, recipe, epochs=3)
    per_epoch = len(ids) // 2

    def seen(*place):
        before = torch.get_rng_state()
        yield from data.stream(samples, *place, torch.device("cpu"))
        assert torch.equal(before, torch.get_rng_state())

    whole = list(seen(0, 0, 0))
    assert len(whole) == 3 * per_epoch
    for epoch, batch, workers in ((0, 0, 2), (1, 1, 1)):
        others = seen(epoch, batch, workers)
        rest = whole[epoch * per_epoch + batch :]
        for (pictures, targets, image_ids), other in zip(rest, others, strict=True):
            assert image_ids == other[2]
            assert torch.equal(pictures, other[0]) and pictures.shape[-1] == 4
            for name, value in targets.items():
                np.testing.assert_array_equal(value, other[1][name], err_msg=name)


def test_too_little_shared_memory_for_a_gpu_s_workers_is_said_at_once(tmp_path):
    free = shutil.disk_usage(tmp_path).free
    data.check_shared_memory(free // 16, 4, str(tmp_path))
    data.check_shared_memory(free, 0, str(tmp_path))
    with pytest.raises(UserError, match="workers: 4 of them need .* MB free; .* or take fewer workers"):
        data.check_shared_memory(free // 11, 4, str(tmp_path))


@pytest.mark.parametrize("mask_channel", [False, True])
def test_the_network_sees_the_same_whoever_normalises(prepared, mask_channel):
    recipe = Recipe(input_width=192, input_height=64, batch_size=2, mask_channel=mask_channel)
    labels = pd.read_parquet(prepared / "labels.parquet").assign(weight=1.0)
    samples = data.Samples(prepared / "cache", sorted(labels.ImageId.unique())[:2], labels, recipe)
    (found, _, _), *_ = data.stream(samples, 0, 0, 1, torch.device("cpu"))
    order = data.epoch_order(0, 2, 0, recipe.pseudo_share, recipe.seed)
    pictures, _, _ = samples.collate([samples[0, place, int(order[place])] for place in range(2)])
    inputs, expected = (data.network_input(one, torch.device("cpu"), recipe) for one in (found, pictures))
    assert torch.equal(inputs, expected) and inputs.is_contiguous(memory_format=torch.channels_last)
    plain = (pictures[..., :3] / 255.0 - data.MEAN) / data.STD
    torch.testing.assert_close(inputs[:, :3].permute(0, 2, 3, 1), plain, atol=1e-5, rtol=1e-5)
    if mask_channel:
        torch.testing.assert_close(inputs[:, 3], pictures[..., 3] / 255.0)


def test_student_sees_pseudo_labelled_photos_more_strongly_augmented(prepared):
    labels = pd.read_parquet(prepared / "labels.parquet").assign(weight=1.0)
    ids = sorted(labels.ImageId.unique())
    last = len(ids) - 1

    def pictures(student):
        recipe = Recipe(input_width=192, input_height=64, student=student)
        samples = data.Samples(prepared / "cache", ids, labels, recipe, pseudo=1)
        return [samples[0, 0, index][0] for index in (0, last)]

    (labelled, pseudo), (labelled_too, stronger) = pictures(1.0), pictures(2.0)
    assert (labelled == labelled_too).all() and (pseudo != stronger).any()


def test_epoch_order_mixes_as_told():
    order = data.epoch_order(0, labelled=100, unlabelled=30, share=0.4, seed=1)
    assert len(order) == 100 and (order >= 100).sum() == 40
    assert len(np.unique(order[order < 100])) == 60
    assert set(order[order >= 100]) == set(range(100, 130)), "every pseudo-labelled photo is used"
    assert (data.epoch_order(0, 100, 30, 0.4, 1) == order).all()
    assert (data.epoch_order(1, 100, 30, 0.4, 1) != order).any()


def test_resumed_epoch_has_the_batches_that_are_left():
    order = data.epoch_order(2, 20, 0, 0, 0)
    assert list(data.batches(2, order, 3, 4)) == list(data.batches(2, order, 3, 0))[4:]


def test_learning_rate_rises_then_falls():
    rates = [*map(rate_schedule("cosine", 100, 1.0, 0.1), range(100))]
    assert rates[9] == pytest.approx(1.0) and rates[0] == pytest.approx(0.1)
    assert rates[10:] == sorted(rates[10:], reverse=True) and rates[-1] < 0.02


@pytest.mark.parametrize("name", ["cosine", "poly", "tanh", "step", "multistep", "wsd", "rsqrt", "constant"])
def test_schedules_of_timm(name):
    """Never rising after the warm-up, and the same for a training that goes on in the middle."""
    rates = [*map(rate_schedule(name, 200, 0.01, 0.1), range(200))]
    assert max(rates) == pytest.approx(0.01) and (np.diff(rates[20:]) <= 0).all()
    assert rates[-1] < 0.0011 or name == "constant"
    assert rate_schedule(name, 200, 0.01, 0.1)(150) == rates[150]


@pytest.mark.parametrize(("scaling", "factor"), [("none", 1), ("sqrt", 2), ("linear", 4)])
def test_learning_rate_follows_the_batch(scaling, factor):
    recipe = Recipe(batch_size=32, lr_batch_size=8, lr_scaling=scaling, lr=0.001, retrain_lr=0.0001)
    assert scaled_rate(recipe, False) == pytest.approx(0.001 * factor)
    assert scaled_rate(recipe, True) == pytest.approx(0.0001 * factor)


def test_learned_weights_end_at_one_over_the_loss():
    """The minimum of exp(−s)·loss + s; a likelihood and what is switched off keep their weights."""
    recipe = Recipe(offset_weight=0.0)
    weights, found = losses.weights(recipe), {"heatmap": 50.0, "offset": 3.0, "depth": -0.5, "rotation": 0.04}
    for _ in range(3000):
        weights = losses.balanced(weights, found, recipe)
    assert weights["heatmap"] == pytest.approx(1 / 50, rel=1e-3)
    assert weights["rotation"] == pytest.approx(1 / 0.04, rel=1e-3)
    assert weights["offset"] == 0.0 and weights["depth"] == recipe.depth_weight


def test_input_size_rises_or_varies_by_batch(prepared):
    labels = pd.read_parquet(prepared / "labels.parquet").assign(weight=1.0)
    ids = sorted(labels.ImageId.unique())

    def widths(resize, keys):
        recipe = Recipe(input_width=192, input_height=64, batch_size=2, resize=resize, resize_from=0.5)
        samples = data.Samples(prepared / "cache", ids, labels, recipe, epochs=8)
        batches = [samples.collate([samples[epoch, place, 0]])[:2] for epoch, place in keys]
        for pictures, targets in batches:
            assert targets["heatmap"].shape == (1, pictures.shape[1] // 4, pictures.shape[2] // 4)
        return [pictures.shape[2] for pictures, _ in batches]

    assert widths("progressive", [(epoch, 0) for epoch in range(6)]) == [96, 128, 128, 160, 192, 192]
    assert widths("none", [(0, 0), (3, 5)]) == [192, 192]
    drawn = widths("random", [(0, place) for place in range(40)])
    assert drawn[0::2] == drawn[1::2], "a batch has one size"
    assert min(drawn) == 96 and max(drawn) == 192


def test_smaller_input_means_a_car_further_away(prepared):
    """Half the pixels, half the apparent size: the network is to say twice the depth."""
    labels = pd.read_parquet(prepared / "labels.parquet").assign(weight=1.0)
    ids = sorted(labels.ImageId.unique())
    still = {"flip": 0, "rotate_deg": [0, 0, 0], "zoom": 0, "shift": 0, "colour": 0}
    recipe = Recipe(input_width=192, input_height=64, **still)

    def depth(recipe):
        samples = data.Samples(prepared / "cache", ids, labels, recipe, epochs=8)
        return samples.collate([samples[0, 0, 0]])[1]["depth"].max()

    half = replace(recipe, resize="progressive", resize_from=0.5)
    assert np.log(2) == pytest.approx(depth(half) - depth(recipe), rel=1e-3)


def test_soft_labels_weigh_less():
    """A pseudo label of weight ½ pulls half as hard."""
    zero = {"heatmap": torch.zeros(1, 8, 8), "ignore": torch.ones(1, 8, 8, dtype=torch.bool)}
    grads = []
    for weight in (1.0, 0.5):
        logits = torch.zeros(1, 1, 8, 8, requires_grad=True)
        targets = zero | {"peak": torch.tensor([9]), "peak_weight": torch.tensor([weight])}
        targets["weight"] = targets["peak_weight"]
        losses.heatmap_focal(logits, targets).backward()
        grads.append(float(logits.grad[0, 0, 1, 1]))
    assert grads[1] == pytest.approx(grads[0] / 2)


def test_noisy_labels_pull_less_at_a_network_that_knows_better():
    """The gradient of the depth falls with the label's own noise; without noise nothing changes."""
    recipe = Recipe()
    grads = []
    for noise in (0.0, 1e-9, 0.5):
        maps = {name: torch.zeros(1, n, 4, 4) for name, n in codec.heads(recipe).items()}
        maps["depth"][0, 1] = -3.0  # sure of itself
        maps["depth"].requires_grad_()
        one = torch.ones(1)
        targets = {"heatmap": torch.zeros(1, 4, 4), "ignore": torch.zeros(1, 4, 4, dtype=torch.bool)}
        targets |= {"peak": torch.tensor([5]), "peak_weight": one, "cell": torch.tensor([5]), "weight": one}
        targets |= {"offset": torch.zeros(1, 2), "rotation": torch.zeros(1, 6)}
        targets |= {"depth": torch.full((1, 1), 0.3), "depth_noise": torch.full((1, 1), noise)}
        losses.compute([maps], targets, recipe)["depth"].backward()
        grads.append(maps["depth"].grad[0, :, 1, 1])
    assert torch.equal(grads[0], grads[1])
    assert abs(grads[2][0]) < 0.15 * abs(grads[0][0]) and abs(grads[2][1]) < 0.1 * abs(grads[0][1])


@pytest.mark.parametrize("optimizer", ["muon", "adamw", "sgd"])
def test_gradients_are_clipped_and_averages_stay_parts_of_one_tensor(prepared, optimizer):
    """Else gradients would add up from step to step, and the average would stand still, in silence."""
    small = {"backbone": "dla34", "width": 0.125, "neck_channels": 16, "input_width": 192, "input_height": 64}
    recipe = Recipe(**small, batch_size=2, optimizer=optimizer, clip_norm=1e-3)
    labels = pd.read_parquet(prepared / "labels.parquet").assign(weight=1.0)
    samples = data.Samples(prepared / "cache", sorted(labels.ImageId.unique())[:2], labels, recipe)
    pictures, targets, _ = samples.collate([samples[0, place, place] for place in range(2)])
    training = Training(recipe, False, None, torch.device("cpu"))
    used, step = [], training.optimizer.step

    def watched(*args, **kwargs):
        used.append(torch.stack([one.grad.norm() for one in training.model.parameters()]).norm())
        return step(*args, **kwargs)

    training.optimizer.step = watched
    for number in range(2):
        first = training.step(pictures, targets, 0.0)()  # without a rate nothing moves but the batch norms
        second = training.step(pictures, targets, 0.0)()
        assert first["norm"] == pytest.approx(second["norm"], rel=1e-3) and first["norm"] > 1e-3
        assert used[-1] == pytest.approx(1e-3, rel=1e-3)
        training.restore(torch.load(io_of(training.state()), weights_only=False))
        for mine, current in training.ema.pairs:
            own, others = (
                [one for one in network.state_dict().values() if one.dtype == mine.dtype]
                for network in (training.ema.module, training.model)
            )
            assert all(one.untyped_storage().data_ptr() == mine.untyped_storage().data_ptr() for one in own)
            at = current.untyped_storage().data_ptr()
            assert all(one.untyped_storage().data_ptr() == at for one in others), number


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_batch_without_cars_trains_the_heat_map_alone(prepared, accumulate):
    recipe = Recipe(backbone="dla34", width=0.125, neck_channels=16, batch_size=2, accumulate=accumulate)
    recipe = replace(recipe, input_width=192, input_height=64)
    labels = pd.read_parquet(prepared / "labels.parquet").assign(weight=1.0)
    samples = data.Samples(prepared / "cache", sorted(labels.ImageId.unique())[:2], labels[:0], recipe)
    pictures, targets, _ = samples.collate([samples[0, place, place] for place in range(2)])
    training = Training(recipe, False, None, torch.device("cpu"))
    values = training.step(pictures, targets, 1e-3)()
    assert not training.is_broken(values) and values["norm"] > 0
    assert values["heatmap"] > 0 and values["depth"] == values["offset"] == values["rotation"] == 0
    assert all(parameter.isfinite().all() for parameter in training.parameters)


@pytest.mark.parametrize("sigma", [0.1, 0.0])
def test_targets_of_an_even_number_train_the_same(prepared, sigma):
    """As a GPU gets them; without noise, too, where other batches have some."""
    recipe = Recipe(backbone="dla34", width=0.125, neck_channels=16, batch_size=2)
    recipe = replace(recipe, input_width=192, input_height=64, height_cue=True)
    labels = pd.read_parquet(prepared / "labels.parquet").assign(weight=1.0, depth_sigma=sigma)
    labels.loc[::3, "weight"] = 0.5
    samples = data.Samples(prepared / "cache", sorted(labels.ImageId.unique()), labels, recipe)
    assert samples.most_cars() == labels.ImageId.value_counts().max()
    pictures, targets, _ = samples.collate([samples[0, place, place] for place in range(2)])
    even = codec.padded(targets, 2 * samples.most_cars(), recipe, noisy=True)
    assert len(even["peak"]) == len(even["peak_weight"]) == 2 * samples.most_cars() > len(targets["peak"])
    assert len(even["cell"]) == len(even["depth_noise"]) == len(even["rotation"]) == 9 * len(even["peak"])
    one, other = (Training(recipe, False, None, torch.device("cpu")) for _ in range(2))
    for _ in range(2):
        assert one.step(pictures, targets, 1e-3)() == pytest.approx(
            other.step(pictures, even, 1e-3)(), rel=1e-5
        )


def test_one_recording_serves_all_batches_of_a_training(prepared, monkeypatch):
    """With a graph that calls the function again, for want of a GPU; see tests/test_gpu.py."""

    class Again:
        def __init__(self, function, own, outputs):
            self.function, self.own, self.outputs = function, own, outputs

        def replay(self):
            self.outputs[:] = self.function(**self.own)

    def record(recorded, inputs):
        own, outputs = {name: torch.empty_like(value) for name, value in inputs.items()}, []
        return Again(recorded.function, own, outputs), own, outputs

    monkeypatch.setattr(graphs.Recorded, "record", record)
    recipe = Recipe(backbone="dla34", width=0.125, neck_channels=16, batch_size=1)
    recipe = replace(recipe, input_width=192, input_height=64, height_cue=True)
    labels = pd.read_parquet(prepared / "labels.parquet").assign(weight=1.0, depth_sigma=0.0)
    names = sorted(labels.ImageId.unique())[:6]
    labels.loc[labels.ImageId.isin(names[::2]), "depth_sigma"] = 0.1
    samples = data.Samples(prepared / "cache", names, labels, recipe)
    one, other = (Training(recipe, False, None, torch.device("cpu")) for _ in range(2))
    one.recorded = graphs.Recorded(one.passes)
    for place in range(len(names)):
        pictures, targets, _ = samples.collate([samples[0, place, place]])
        even = codec.padded(targets, samples.most_cars(), recipe, bool(samples.noise.any()))
        values = [training.step(pictures, even, 1e-3)() for training in (one, other)]
        assert values[0] == values[1]
    assert list(one.recorded.calls.values()) == [graphs.UNRECORDED + 1] and len(one.recorded.graphs) == 1


def test_losses_come_in_the_order_of_their_weights(prepared):
    recipe = Recipe(backbone="dla34", width=0.125, neck_channels=16, batch_size=1, height_cue=True)
    training = Training(recipe, False, None, torch.device("cpu"))
    labels = pd.read_parquet(prepared / "labels.parquet").assign(weight=1.0)
    samples = data.Samples(prepared / "cache", sorted(labels.ImageId.unique())[:1], labels, recipe)
    pictures, targets, _ = samples.collate([samples[0, 0, 0]])
    targets = {name: torch.as_tensor(value) for name, value in targets.items()}
    outputs = training.model(data.network_input(pictures, training.device, recipe), targets["cell"])
    assert list(losses.compute(outputs, targets, recipe)) == list(losses.weights(recipe))


def test_a_training_goes_on_where_numbers_have_another_format():
    """From a GPU with bf16 to one with float16, whose gradients are scaled, and back."""
    recipe = Recipe(backbone="dla34", width=0.125, neck_channels=16)
    plain, scaled = (Training(recipe, False, None, torch.device("cpu")) for _ in range(2))
    scaled.scaler = torch.amp.GradScaler("cpu", enabled=True)
    state = scaled.state()
    scaled.restore(torch.load(io_of(plain.state()), weights_only=False))
    plain.restore(torch.load(io_of(state), weights_only=False))
    assert plain.scaler.state_dict() == {} and scaled.scaler.get_scale() == 65536


def io_of(state: dict) -> io.BytesIO:
    return io.BytesIO(distributed.as_bytes(state))


def test_tensors_of_one_memory_are_written_once(tmp_path):
    """As they are sent to other processes when a training goes on, and into a model."""
    recipe = Recipe(backbone="dla34", width=0.125, neck_channels=16)
    training = Training(recipe, False, None, torch.device("cpu"))
    size = sum(value.numel() * value.element_size() for value in training.model.state_dict().values())
    state = training.state() | {"optimizer": {}}
    loaded = torch.load(io_of(state), weights_only=False)
    assert len(distributed.as_bytes(loaded)) < 2.5 * size + 300_000  # names and shapes take the rest
    apart = {name: value.clone() for name, value in training.model.state_dict().items()}
    for path, weights in (("flat.pt", training.model.state_dict()), ("apart.pt", apart)):
        save_checkpoint(tmp_path / path, weights, recipe, {})
    assert (tmp_path / "flat.pt").read_bytes() == (tmp_path / "apart.pt").read_bytes()
