"""The networks: sizes, widths, norms and inputs."""

import math

import pytest
import torch
from torch import nn

from carpose.registry.backbones import BACKBONES
from models.hourglass import HourglassNet
from models.layers import upsample_to
from tests.heads.made_up import gather
from tests.models.tiny import FAMILIES, HEADS, count_parameters, flat, network_of, tiny


@pytest.mark.parametrize("backbone", FAMILIES)
@pytest.mark.parametrize("height, width", [(160, 512), (64, 96), (33, 70)])
def test_maps_have_stride_4_at_any_size(backbone, height, width):
    model = tiny(backbone).eval()
    with torch.inference_mode():
        (maps,) = model(torch.randn(2, 3, height, width))
    shapes = {name: tuple(tensor.shape) for name, tensor in maps.items()}
    size = (math.ceil(height / 4), math.ceil(width / 4))
    assert shapes == {name: (2, channels, *size) for name, channels in HEADS.items()}


@pytest.mark.parametrize("backbone", FAMILIES)
@pytest.mark.parametrize("height, width", [(64, 96), (33, 70)])
def test_heads_at_cells_have_the_outputs_and_gradients_of_the_maps(backbone, height, width):
    model = tiny(backbone).double()
    images = torch.randn(2, 3, height, width, dtype=torch.double)
    rows, columns = math.ceil(height / 4), math.ceil(width / 4)
    area = rows * columns
    corners = [0, columns - 1, area - columns, area - 1]
    cells = torch.tensor([*corners, *(area + cell for cell in corners), 5, 5, columns + 7])

    def run(*arguments):
        model.zero_grad()
        stacks = model(images, *arguments)
        heat = torch.cat([outputs.pop("heatmap") for outputs in stacks])
        values = [value for outputs in stacks for value in outputs.values()]
        poses = torch.cat(values if arguments else [gather(value, cells) for value in values], dim=1)
        (heat.square().mean() + poses.square().sum()).backward()
        gradients = nn.utils.parameters_to_vector([p.grad for p in model.parameters()])
        return heat, poses, gradients

    for at_cells, of_maps in zip(run(cells), run(), strict=True):
        torch.testing.assert_close(at_cells, of_maps)


@pytest.mark.parametrize("backbone", [name for name in BACKBONES if name not in FAMILIES])
def test_every_backbone_builds_at_every_width(backbone):
    with torch.device("meta"):
        small, full = tiny(backbone), network_of(backbone)
    assert count_parameters(small) < count_parameters(full) / 8


@pytest.mark.parametrize("backbone", FAMILIES)
def test_width_scales_all_channels(backbone):
    with torch.device("meta"):
        convolutions = [m for m in tiny(backbone).modules() if isinstance(m, nn.Conv2d)]
        full = [m for m in network_of(backbone).modules() if isinstance(m, nn.Conv2d)]
    assert convolutions[0].out_channels < full[0].out_channels
    assert max(c.out_channels for c in convolutions) <= max(c.out_channels for c in full) / 4


@pytest.mark.parametrize("neck", ["fpn", "ida", "unet"])
def test_necks_use_every_scale(neck):
    model = tiny("dla34", neck=neck)
    scales = [torch.randn(2, c, 32 >> i, 32 >> i, requires_grad=True) for i, c in enumerate((8, 16, 32, 64))]
    output = model.neck(scales)
    output.square().sum().backward()
    assert output.shape == (2, 8, 32, 32)
    assert all(scale.grad.abs().sum() > 0 for scale in scales)


@pytest.mark.parametrize("backbone", FAMILIES)
@pytest.mark.parametrize("norm", ["batch", "group"])
def test_gradient_reaches_every_parameter(backbone, norm):
    torch.manual_seed(0)
    model = tiny(backbone, norm=norm, in_channels=4)
    flat(model(torch.randn(2, 4, 64, 64))).square().sum().backward()
    without_gradient = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert without_gradient == []


@pytest.mark.parametrize("backbone", FAMILIES)
def test_group_norm_leaves_no_batch_norm(backbone):
    model = tiny(backbone, norm="group")
    types = {type(module) for module in model.modules()}
    assert not any(issubclass(cls, nn.modules.batchnorm._BatchNorm) for cls in types)
    assert nn.GroupNorm in types
    # The outputs for an image do not depend on the other images of the batch.
    images = torch.randn(3, 3, 64, 64)
    torch.testing.assert_close(model(images)[-1]["depth"][:1], model(images[:1])[-1]["depth"])


def test_group_norm_keeps_activations():
    def activations(model):
        return sum(isinstance(module, nn.SiLU) for module in model.modules())

    assert activations(tiny("efficientnet_b0", norm="group")) == activations(tiny("efficientnet_b0")) > 0


@pytest.mark.parametrize("backbone", ["efficientnet_lite0", "dla34", "hourglass"])
def test_same_seed_same_weights(backbone):
    def weights(seed):
        torch.manual_seed(seed)
        return nn.utils.parameters_to_vector(tiny(backbone).parameters())

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


def test_heat_map_starts_at_one_percent_in_float32():
    model = tiny("hourglass", stacks=1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        (maps,) = model(torch.randn(2, 3, 64, 64))
    assert all(tensor.dtype == torch.float32 for tensor in maps.values())
    assert maps["heatmap"].sigmoid().mean().item() == pytest.approx(0.01, rel=0.1)
    assert maps["offset"].abs().mean() < 0.1


# Hourglass


def test_hourglass_104_has_its_parameters():
    with torch.device("meta"):
        assert count_parameters(HourglassNet(1.0, 3, heads={})) == pytest.approx(187.7e6, rel=1e-3)


def test_every_stack_is_supervised_in_training_and_the_last_predicts():
    model = tiny("hourglass", stacks=3, modules=1)
    images = torch.randn(2, 3, 64, 64)
    assert len(model(images)) == 3
    assert len(model.eval()(images)) == 1
    # In evaluation mode the outputs are those of the last stack's heads.
    nn.init.constant_(model.heads[-1]["depth"].output.bias, 7.0)
    nn.init.zeros_(model.heads[-1]["depth"].output.weight)
    assert (model(images)[-1]["depth"] == 7).all()


def test_upsampling_to_an_odd_size_crops_the_twofold_map():
    """So that cells stay aligned with the finer scale."""
    for size in range(1, 40):
        coarse = torch.arange(math.ceil(size / 2), dtype=torch.float32)
        enlarged = upsample_to(coarse.view(1, 1, 1, -1), torch.empty(1, 1, 1, size)).flatten()
        assert torch.equal(enlarged, coarse.repeat_interleave(2)[:size])
