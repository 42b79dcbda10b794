"""A step: gradient clipping, moving average, padded targets, recorded graphs."""

import io
from dataclasses import replace

import pandas as pd
import pytest
import torch

from carpose.config.train_config import TrainConfig
from carpose.data.samples import Samples
from carpose.heads.targets import pad_targets
from carpose.network import graphs
from carpose.train.step import Training

CPU = torch.device("cpu")
SMALL = TrainConfig(
    backbone="dla34", width=0.125, neck_channels=16, input_width=192, input_height=64, batch_size=2
)
BOTH_DEPTHS = replace(SMALL, heads=["height"])


@pytest.fixture(scope="module")
def labels(prepared):
    return pd.read_parquet(prepared / "labels.parquet").assign(weight=1.0)


def samples_of(prepared, labels, train_config, count=None, cars=None):
    names = sorted(labels.ImageId.unique())[:count]
    return Samples(prepared / "cache", names, labels if cars is None else cars, train_config)


def first_batch(samples):
    images, targets, _ = samples.collate([samples[0, position, position] for position in range(2)])
    return images, targets


def through_a_file(state):
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


@pytest.mark.parametrize("optimizer", ["muon", "adamw", "sgd"])
def test_gradients_are_clipped_and_do_not_add_up(prepared, labels, optimizer):
    train_config = replace(SMALL, optimizer=optimizer, clip_norm=1e-3)
    batch = first_batch(samples_of(prepared, labels, train_config, 2))
    training = Training(train_config, None, CPU)
    used, step = [], training.optimizer.step

    def watched(*args, **kwargs):
        used.append(torch.stack([parameter.grad.norm() for parameter in training.model.parameters()]).norm())
        return step(*args, **kwargs)

    training.optimizer.step = watched
    for _ in range(2):
        # With a learning rate of 0 only the batch norms' statistics change.
        first, second = (training.step(*batch, 0.0)() for _ in range(2))
        assert first["norm"] == pytest.approx(second["norm"], rel=1e-3) and first["norm"] > 1e-3
        assert used[-1] == pytest.approx(1e-3, rel=1e-3)
        training.restore(through_a_file(training.state()))


def test_a_small_gradient_is_used_as_it_is(prepared, labels):
    """Clipping shortens a gradient, it never lengthens one."""
    batch = first_batch(samples_of(prepared, labels, SMALL, 2))
    training = Training(replace(SMALL, optimizer="sgd", clip_norm=1e9), None, CPU)
    values = training.step(*batch, 0.0)()
    used = torch.stack([parameter.grad.norm() for parameter in training.parameters]).norm()
    assert used == pytest.approx(values["norm"], rel=1e-3)


def test_the_moving_average_follows_a_restored_training(prepared, labels):
    """It must not keep references to tensors of before the restore."""
    batch = first_batch(samples_of(prepared, labels, SMALL, 2))
    one, other = (Training(SMALL, None, CPU) for _ in range(2))
    one.step(*batch, 1e-2)()
    other.restore(through_a_file(one.state()))
    for training in (one, other):
        training.progress.step = 10  # in the first steps the average equals the network
        training.step(*batch, 1e-2)()
    for name, value in one.ema.module.state_dict().items():
        assert torch.equal(other.ema.module.state_dict()[name], value), name
    averaged, current = (network.state_dict() for network in (one.ema.module, one.model))
    assert any(not torch.equal(averaged[name], value) for name, value in current.items())


def test_a_batch_without_cars_trains_the_heat_map_alone(prepared, labels):
    train_config = SMALL
    batch = first_batch(samples_of(prepared, labels, train_config, 2, cars=labels[:0]))
    training = Training(train_config, None, CPU)
    values = training.step(*batch, 1e-3)()
    assert not training.is_broken(values) and values["norm"] > 0
    assert values["heatmap"] > 0 and values["depth"] == values["offset"] == values["rotation"] == 0
    assert all(parameter.isfinite().all() for parameter in training.parameters)


def test_the_loss_is_the_weighted_sum_of_its_terms(prepared, labels):
    train_config = replace(BOTH_DEPTHS, loss_weights={"height": 0.25, "rotation": 3})
    values = Training(train_config, None, CPU).step(
        *first_batch(samples_of(prepared, labels, train_config, 2)), 0.0
    )()
    loss_weights = {
        name: train_config.loss_weight_of(name)
        for name in ("heatmap", "offset", "depth", "height", "rotation")
    }
    assert loss_weights["height"] == 0.25 and list(values) == ["loss", *loss_weights, "norm"]
    assert values["loss"] == pytest.approx(
        sum(weight * values[name] for name, weight in loss_weights.items())
    )


@pytest.mark.parametrize("sigma", [0.1, 0.0])
def test_padded_targets_train_the_same(prepared, labels, sigma):
    """Padded as for a CUDA graph."""
    table = labels.assign(depth_sigma=sigma)
    table.loc[::3, "weight"] = 0.5
    samples = samples_of(prepared, table, BOTH_DEPTHS)
    assert samples.max_cars() == table.ImageId.value_counts().max()
    images, targets = first_batch(samples)
    padded = pad_targets(targets, 2 * samples.max_cars())
    assert len(padded["peak"]) == 2 * samples.max_cars() > len(targets["peak"])
    one, other = (Training(BOTH_DEPTHS, None, CPU) for _ in range(2))
    first, second = (
        (one.step(images, targets, 1e-3)(), other.step(images, padded, 1e-3)()) for _ in range(2)
    )
    assert first[0] == pytest.approx(first[1], rel=1e-5)
    # The step amplifies rounding differences, most of all in the norm of the next gradient.
    second[0].pop("norm"), second[1].pop("norm")
    assert second[0] == pytest.approx(second[1], rel=1e-5)


def test_one_recording_serves_all_batches_of_a_training(prepared, labels, monkeypatch):
    """With a mock of a CUDA graph that calls the function again; tests/test_gpu.py tests the real one."""

    class Again:
        def __init__(self, function, inputs, outputs):
            self.function, self.inputs, self.outputs = function, inputs, outputs

        def replay(self):
            self.outputs[:] = self.function(**self.inputs)

    def record(recorded, inputs):
        copies, outputs = {name: torch.empty_like(value) for name, value in inputs.items()}, []
        return Again(recorded.function, copies, outputs), copies, outputs

    monkeypatch.setattr(graphs.Recorded, "record", record)
    train_config = replace(BOTH_DEPTHS, batch_size=1)
    table = labels.assign(depth_sigma=0.0)
    names = sorted(table.ImageId.unique())[:6]
    table.loc[table.ImageId.isin(names[::2]), "depth_sigma"] = 0.1
    samples = samples_of(prepared, table, train_config, len(names))
    one, other = (Training(train_config, None, CPU) for _ in range(2))
    one.cuda_graph = graphs.Recorded(one.forward_backward)
    for position in range(len(names)):
        images, targets, _ = samples.collate([samples[0, position, position]])
        padded = pad_targets(targets, samples.max_cars())
        values = [training.step(images, padded, 1e-3)() for training in (one, other)]
        assert values[0] == values[1]
    assert list(one.cuda_graph.calls.values()) == [graphs.WARMUP_CALLS + 1]
    assert len(one.cuda_graph.graphs) == 1


def test_a_training_resumes_with_another_number_format():
    """From bf16 to float16, which has a gradient scaler, and back."""
    plain, scaled = (Training(SMALL, None, CPU) for _ in range(2))
    scaled.scaler = torch.amp.GradScaler("cpu", enabled=True)
    state = scaled.state()
    scaled.restore(through_a_file(plain.state()))
    plain.restore(through_a_file(state))
    assert plain.scaler.state_dict() == {} and scaled.scaler.get_scale() == 65536
