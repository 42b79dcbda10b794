"""The losses of photos that are not learnt from."""

import pytest
import torch

from carpose.config.sections import Predict, Running
from carpose.config.train_config import TrainConfig
from carpose.core import cars
from carpose.data.samples import Samples, network_input
from carpose.heads import loss
from carpose.metric import evaluate
from carpose.network.checkpoint import build
from carpose.predict.cars import predict_cars
from carpose.predict.networks import prepare_for_inference
from carpose.train.validation import validate

CPU = torch.device("cpu")


@pytest.mark.parametrize("workers", [0, 2])
def test_they_are_those_of_the_photos_as_they_are(prepared, workers):
    """Without augmentation, and without a trace in the network or in torch's random numbers."""
    settings = {"backbone": "dla34", "width": 0.125, "neck_channels": 8, "heads": ["height"], "amp": "off"}
    train_config = TrainConfig(**settings, input_width=128, input_height=64)
    labels = cars.read(prepared / "labels.parquet").assign(weight=1.0, depth_sigma=0.0)
    image_ids = sorted(labels["ImageId"].unique())[:10]  # a batch and a smaller one
    network = build(train_config).eval()
    before = torch.get_rng_state(), {name: value.clone() for name, value in network.state_dict().items()}
    truth = labels[labels["ImageId"].isin(image_ids)]
    cache = prepared / "cache"
    values = validate(network, train_config, cache, image_ids, truth, CPU, Running(workers=workers))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert all(torch.equal(value, before[1][name]) for name, value in network.state_dict().items())

    still = TrainConfig(
        **{**vars(train_config), "flip": 0, "rotate_deg": [0, 0, 0], "zoom": 0, "shift": 0, "colour": 0}
    )
    samples = Samples(cache, image_ids, labels, still)
    weights = loss.loss_weights(train_config)
    expected = dict.fromkeys(weights, 0.0)
    for indices in (range(8), range(8, 10)):
        images, targets, _ = samples.collate([samples[3, 5, index] for index in indices])
        targets = {name: torch.as_tensor(value) for name, value in targets.items()}
        with torch.no_grad():
            outputs = network(network_input(images, CPU, still), targets["cell"])
        losses = loss.compute(outputs, targets, still, loss.as_totals(loss.local_counts(targets)))
        for name, value in losses.items():
            expected[name] += float(value) * len(indices) / 10
    assert set(values) == {"valid_loss", "mAP", *(f"valid_{name}" for name in weights)}
    for name, value in expected.items():
        assert values[f"valid_{name}"] == pytest.approx(value, rel=1e-4)
    model = prepare_for_inference(network, train_config, CPU)
    one_view = Predict(threshold=0.05, flip=False, tta_rotations_deg=[], mask_filter=False)
    predicted, _ = predict_cars([model], train_config, cache, image_ids, CPU, one_view)
    assert values["mAP"] == pytest.approx(evaluate(truth, predicted, image_ids=image_ids)["mAP"], abs=1e-9)
    total = sum(weight * values[f"valid_{name}"] for name, weight in weights.items())
    assert values["valid_loss"] == pytest.approx(total)
