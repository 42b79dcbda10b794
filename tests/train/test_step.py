"""A step: clipped, averaged, the same in parts, padded or replayed."""

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
    pictures, targets, _ = samples.collate([samples[0, place, place] for place in range(2)])
    return pictures, targets


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
        # Without a rate nothing moves but the batch norms.
        first, second = (training.step(*batch, 0.0)() for _ in range(2))
        assert first["norm"] == pytest.approx(second["norm"], rel=1e-3) and first["norm"] > 1e-3
        assert used[-1] == pytest.approx(1e-3, rel=1e-3)
        training.restore(through_a_file(training.state()))


def test_the_average_follows_a_restored_training(prepared, labels):
    """Else it would stand still, in silence."""
    batch = first_batch(samples_of(prepared, labels, SMALL, 2))
    one, other = (Training(SMALL, None, CPU) for _ in range(2))
    one.step(*batch, 1e-2)()
    other.restore(through_a_file(one.state()))
    for training in (one, other):
        training.progress.step = 10  # in the first steps the average is the network
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
    weights = {
        name: train_config.loss_weight_of(name)
        for name in ("heatmap", "offset", "depth", "height", "rotation")
    }
    assert weights["height"] == 0.25 and list(values) == ["loss", *weights, "norm"]
    assert values["loss"] == pytest.approx(sum(weight * values[name] for name, weight in weights.items()))


@pytest.mark.parametrize("sigma", [0.1, 0.0])
def test_padded_targets_train_the_same(prepared, labels, sigma):
    """As a GPU gets them."""
    table = labels.assign(depth_sigma=sigma)
    table.loc[::3, "weight"] = 0.5
    samples = samples_of(prepared, table, BOTH_DEPTHS)
    assert samples.most_cars() == table.ImageId.value_counts().max()
    pictures, targets = first_batch(samples)
    padded = pad_targets(targets, 2 * samples.most_cars())
    assert len(padded["peak"]) == 2 * samples.most_cars() > len(targets["peak"])
    one, other = (Training(BOTH_DEPTHS, None, CPU) for _ in range(2))
    first, second = (
        (one.step(pictures, targets, 1e-3)(), other.step(pictures, padded, 1e-3)()) for _ in range(2)
    )
    assert first[0] == pytest.approx(first[1], rel=1e-5)
    # A step of Muon enlarges what rounding differs by, the norm of the next gradient most of all.
    second[0].pop("norm"), second[1].pop("norm")
    assert second[0] == pytest.approx(second[1], rel=1e-5)


def test_one_recording_serves_all_batches_of_a_training(prepared, labels, monkeypatch):
    """With a graph that calls the function again, for want of a GPU; see tests/test_gpu.py."""

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
    one.recorded = graphs.Recorded(one.forward_backward)
    for place in range(len(names)):
        pictures, targets, _ = samples.collate([samples[0, place, place]])
        padded = pad_targets(targets, samples.most_cars())
        values = [training.step(pictures, padded, 1e-3)() for training in (one, other)]
        assert values[0] == values[1]
    assert list(one.recorded.calls.values()) == [graphs.UNRECORDED + 1] and len(one.recorded.graphs) == 1


def test_a_training_goes_on_where_numbers_have_another_format():
    """From a GPU with bf16 to one with float16, whose gradients are scaled, and back."""
    plain, scaled = (Training(SMALL, None, CPU) for _ in range(2))
    scaled.scaler = torch.amp.GradScaler("cpu", enabled=True)
    state = scaled.state()
    scaled.restore(through_a_file(plain.state()))
    plain.restore(through_a_file(state))
    assert plain.scaler.state_dict() == {} and scaled.scaler.get_scale() == 65536
