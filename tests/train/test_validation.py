"""The losses of photos that are not learnt from."""

import pytest
import torch

from carpose.config.train_config import TrainConfig
from carpose.core import cars
from carpose.data.samples import Samples, network_input
from carpose.heads import loss
from carpose.network.checkpoint import build
from carpose.train.validation import validation_losses

CPU = torch.device("cpu")


def test_they_are_those_of_the_photos_as_they_are(prepared):
    """Without augmentation, and without a trace in the network or in torch's random numbers."""
    settings = {"backbone": "dla34", "width": 0.125, "neck_channels": 8, "heads": ["height"], "amp": "off"}
    train_config = TrainConfig(**settings, input_width=128, input_height=64)
    labels = cars.read(prepared / "labels.parquet").assign(weight=1.0, depth_sigma=0.0)
    image_ids = sorted(labels["ImageId"].unique())[:4]
    network = build(train_config).eval()
    before = torch.get_rng_state(), {name: value.clone() for name, value in network.state_dict().items()}
    values = validation_losses(network, train_config, prepared / "cache", image_ids, labels, CPU)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert all(torch.equal(value, before[1][name]) for name, value in network.state_dict().items())

    still = TrainConfig(
        **{**vars(train_config), "flip": 0, "rotate_deg": [0, 0, 0], "zoom": 0, "shift": 0, "colour": 0}
    )
    samples = Samples(prepared / "cache", image_ids, labels, still)
    pictures, targets, _ = samples.collate([samples[3, 5, index] for index in range(4)])
    targets = {name: torch.as_tensor(value) for name, value in targets.items()}
    with torch.no_grad():
        outputs = network(network_input(pictures, CPU, still), targets["cell"])
    expected = loss.compute(outputs, targets, still, loss.as_totals(loss.local_counts(targets)))
    weights = loss.loss_weights(train_config)
    assert set(values) == {"valid_loss", *(f"valid_{name}" for name in weights)}
    for name, value in expected.items():
        assert values[f"valid_{name}"] == pytest.approx(float(value), rel=1e-5)
    total = sum(weight * values[f"valid_{name}"] for name, weight in weights.items())
    assert values["valid_loss"] == pytest.approx(total)
