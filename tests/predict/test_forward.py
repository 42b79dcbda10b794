"""What networks say: mirror images mapped back, means."""

from dataclasses import replace

import pytest
import torch

from carpose.network.build import build
from carpose.predict.forward import RawPrediction, flipped_forward, forward, mean
from carpose.predict.networks import placed
from tests.predict.small import CPU, RECIPE


@pytest.mark.parametrize("change", [{}, {"heads": ["height"]}, {"position": "regressed"}], ids=str)
def test_mirrored_photo_has_mirrored_cars(change):
    """What the mirror image's maps are made of: flipped maps of the mirrored picture are those of the picture
    after flipping twice."""
    recipe = replace(RECIPE, **change)
    model = placed(build(recipe), recipe, CPU)
    pictures = torch.randint(0, 255, (2, 64, 192, 4), dtype=torch.uint8)
    once = flipped_forward(model, pictures, recipe, CPU)
    twice = flipped_forward(model, pictures.flip(2), recipe, CPU)
    torch.testing.assert_close(twice.heatmap.flip(3), once.heatmap)
    cells = torch.arange(once.heatmap.numel())
    mirrored = cells.view(once.heatmap.shape).flip(3).flatten()
    once, twice = once.poses(cells), twice.poses(mirrored)
    torch.testing.assert_close(-twice["rotation"][:, 0], once["rotation"][:, 0])  # the sine of the yaw
    torch.testing.assert_close(twice["rotation"][:, 1], once["rotation"][:, 1])
    torch.testing.assert_close(twice["depth"], once["depth"])
    torch.testing.assert_close(-twice["offset"][:, 0], once["offset"][:, 0])


def test_mean_of_two_networks():
    one, other = (placed(build(replace(RECIPE, seed=seed)), RECIPE, CPU) for seed in (1, 2))
    pictures = torch.randint(0, 255, (2, 64, 192, 4), dtype=torch.uint8)
    predictions = [forward(model, pictures, RECIPE, CPU) for model in (one, other)]
    both, cells = mean(predictions), torch.tensor([5, 700])
    assert isinstance(both, RawPrediction)
    torch.testing.assert_close(both.heatmap, (predictions[0].heatmap + predictions[1].heatmap) / 2)
    for name, value in both.poses(cells).items():
        outputs = [prediction.poses(cells)[name] for prediction in predictions]
        torch.testing.assert_close(value, (outputs[0] + outputs[1]) / 2)
