"""Checkpoints of one model's folds → networks; predictions of mirror images and their means."""

from dataclasses import replace

import pytest
import torch

from carpose.core.errors import UserError
from carpose.network.checkpoint import build
from carpose.predict.networks import (
    RawPrediction,
    flipped_forward,
    forward,
    load_networks,
    mean,
    prepare_for_inference,
)
from models.predictor import Predictor
from tests.predict.small import CPU, TRAIN_CONFIG, checkpoint


def test_all_folds_have_one_training_configuration(tmp_path):
    first, other = checkpoint(tmp_path / "a0.pt", seed=1), checkpoint(tmp_path / "a1.pt", seed=2)
    networks, train_config = load_networks([first, other], CPU)
    assert [type(network) for network in networks] == [Predictor, Predictor] and train_config == TRAIN_CONFIG
    changed = checkpoint(tmp_path / "changed.pt", epochs=7)
    with pytest.raises(
        UserError, match=r"changed.pt: its training configuration differs from that of .*a0.pt"
    ):
        load_networks([first, changed], CPU)


def test_a_checkpoint_of_another_fold_is_refused(tmp_path):
    """It would predict photos that it was trained on, and these would count as out of fold."""
    folds = [checkpoint(tmp_path / f"{fold}.pt", provenance={"fold": fold}) for fold in (0, 1)]
    load_networks(folds, CPU)
    with pytest.raises(UserError, match="1.pt: is the model of fold 1, but that of fold 0 is needed"):
        load_networks(folds[::-1], CPU)


@pytest.mark.parametrize("change", [{}, {"heads": ["height"]}, {"position": "regressed"}], ids=str)
def test_a_mirrored_photo_has_mirrored_cars(change):
    """The prediction for the mirrored images, flipped, equals that for the images."""
    train_config = replace(TRAIN_CONFIG, **change)
    model = prepare_for_inference(build(train_config), train_config, CPU)
    images = torch.randint(0, 255, (2, 64, 192, 4), dtype=torch.uint8)
    once = flipped_forward(model, images, train_config, CPU)
    twice = flipped_forward(model, images.flip(2), train_config, CPU)
    torch.testing.assert_close(twice.heatmap.flip(3), once.heatmap)
    cells = torch.arange(once.heatmap.numel())
    mirrored = cells.view(once.heatmap.shape).flip(3).flatten()
    once, twice = once.outputs_at(cells), twice.outputs_at(mirrored)
    torch.testing.assert_close(-twice["rotation"][:, 0], once["rotation"][:, 0])  # the sine of the yaw
    torch.testing.assert_close(twice["rotation"][:, 1], once["rotation"][:, 1])
    torch.testing.assert_close(twice["depth"], once["depth"])
    torch.testing.assert_close(-twice["offset"][:, 0], once["offset"][:, 0])


def test_mean_of_two_networks():
    one, other = (
        prepare_for_inference(build(replace(TRAIN_CONFIG, seed=seed)), TRAIN_CONFIG, CPU) for seed in (1, 2)
    )
    images = torch.randint(0, 255, (2, 64, 192, 4), dtype=torch.uint8)
    predictions = [forward(model, images, TRAIN_CONFIG, CPU) for model in (one, other)]
    both, cells = mean(predictions), torch.tensor([5, 700])
    assert isinstance(both, RawPrediction)
    torch.testing.assert_close(both.heatmap, (predictions[0].heatmap + predictions[1].heatmap) / 2)
    for name, value in both.outputs_at(cells).items():
        outputs = [prediction.outputs_at(cells)[name] for prediction in predictions]
        torch.testing.assert_close(value, (outputs[0] + outputs[1]) / 2)
