"""The networks: sizes, widths, norms, inputs and pretrained weights."""

import math

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from carpose import UserError
from carpose.codec import gather
from models import BACKBONES, build_model, count_parameters
from models import pretrained as pretrained_module
from models.dla34 import dla34
from models.efficientnet import SIZES, efficientnet, published_name
from models.folding import fold_batch_norms
from models.hourglass import hourglass
from models.layers import upsample_to

HEADS = {"heatmap": 1, "offset": 2, "depth": 2, "rotation": 6}
# timm by way of the package: imported before the package's shim it fails beside a CPU build of torch.
create_model = pretrained_module.timm.create_model
convert_sync_batchnorm = pretrained_module.timm.layers.convert_sync_batchnorm
FAMILIES = ["efficientnet_b0", "efficientnet_lite0", "dla34", "hourglass"]


def tiny(backbone: str, **options) -> nn.Module:
    return build_model(backbone, **{"heads": HEADS, "width": 0.125, "neck_channels": 8, **options})


def flat(outputs: list[dict[str, torch.Tensor]]) -> torch.Tensor:
    return torch.cat([maps.flatten() for stack in outputs for maps in stack.values()])


@pytest.mark.parametrize("backbone", FAMILIES)
@pytest.mark.parametrize("height, width", [(160, 512), (64, 96), (33, 70)])
def test_maps_have_stride_4_at_any_size(backbone, height, width):
    model = tiny(backbone).eval()
    with torch.inference_mode():
        (maps,) = model(torch.randn(2, 3, height, width))
    shapes = {name: tuple(tensor.shape) for name, tensor in maps.items()}
    size = (math.ceil(height / 4), math.ceil(width / 4))
    assert shapes == {name: (2, channels, *size) for name, channels in HEADS.items()}


@pytest.mark.parametrize("backbone, norm", [*((name, "batch") for name in FAMILIES), ("dla34", "group")])
def test_batch_norms_fold_into_convolutions(backbone, norm):
    torch.manual_seed(0)
    model = tiny(backbone, norm=norm, in_channels=4).double()
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):  # as if it had been trained
            nn.init.normal_(layer.running_mean)
            nn.init.uniform_(layer.running_var, 0.5, 2)
            nn.init.uniform_(layer.weight, 0.5, 2)
            nn.init.normal_(layer.bias)
    model.eval()
    before = [tensor.clone() for tensor in model.state_dict().values()]
    folded = fold_batch_norms(model, 4)
    pictures = torch.randn(2, 4, 64, 96, dtype=torch.double)
    with torch.inference_mode():
        torch.testing.assert_close(flat(folded(pictures)), flat(model(pictures)), rtol=1e-6, atol=1e-6)
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in folded.modules())
    assert all(map(torch.equal, before, model.state_dict().values())), "the network itself stays as it is"
    shared = fold_batch_norms(convert_sync_batchnorm(model), 4)
    with torch.inference_mode():
        torch.testing.assert_close(flat(shared(pictures)), flat(folded(pictures)))
    assert not any(isinstance(layer, nn.SyncBatchNorm) for layer in shared.modules())


def test_batch_norm_that_does_not_read_one_convolution_as_it_is_stays():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.convolution, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

        def forward(self, x):
            return self.norm(self.convolution(self.norm(self.convolution(x))))

    changed = nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU(inplace=True), nn.BatchNorm2d(3))
    for model in (Shared(), changed):
        norm = model.eval().get_submodule("norm" if model is not changed else "2")
        nn.init.normal_(norm.running_mean)
        x = torch.randn(1, 3, 4, 4)
        assert torch.equal(fold_batch_norms(model)(x), model(x))


@pytest.mark.parametrize("backbone", FAMILIES)
@pytest.mark.parametrize("height, width", [(64, 96), (33, 70)])
def test_heads_at_cells_are_those_of_the_maps_and_learn_the_same(backbone, height, width):
    model = tiny(backbone).double()
    pictures = torch.randn(2, 3, height, width, dtype=torch.double)
    rows, columns = math.ceil(height / 4), math.ceil(width / 4)
    area = rows * columns
    corners = [0, columns - 1, area - columns, area - 1]
    cells = torch.tensor([*corners, *(area + cell for cell in corners), 5, 5, columns + 7])

    def run(*arguments):
        model.zero_grad()
        stacks = model(pictures, *arguments)
        heat = torch.cat([maps.pop("heatmap") for maps in stacks])
        rest = torch.cat([gather(each, cells) for maps in stacks for each in maps.values()], dim=1)
        (heat.square().mean() + rest.square().sum()).backward()
        gradients = nn.utils.parameters_to_vector([p.grad for p in model.parameters()])
        return heat, rest, gradients

    for there, everywhere in zip(run(cells), run(), strict=True):
        torch.testing.assert_close(there, everywhere)


@pytest.mark.parametrize("backbone", [name for name in BACKBONES if name not in FAMILIES])
def test_every_backbone_builds_at_every_width(backbone):
    with torch.device("meta"):
        small, full = tiny(backbone), build_model(backbone, heads=HEADS)
    assert count_parameters(small) < count_parameters(full) / 8


@pytest.mark.parametrize("backbone", FAMILIES)
def test_width_scales_all_channels(backbone):
    with torch.device("meta"):
        convolutions = [m for m in tiny(backbone).modules() if isinstance(m, nn.Conv2d)]
        full = [m for m in build_model(backbone, heads=HEADS).modules() if isinstance(m, nn.Conv2d)]
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
    model = tiny(backbone, norm=norm, in_channels=4, coordinates=True)
    flat(model(torch.randn(2, 4, 64, 64))).square().sum().backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []


@pytest.mark.parametrize("backbone", FAMILIES)
def test_group_norm_leaves_no_batch_norm(backbone):
    model = tiny(backbone, norm="group")
    kinds = {type(module) for module in model.modules()}
    assert not any(issubclass(kind, nn.modules.batchnorm._BatchNorm) for kind in kinds)
    assert nn.GroupNorm in kinds
    # Nothing is left that couples the pictures of a batch.
    pictures = torch.randn(3, 3, 64, 64)
    torch.testing.assert_close(model(pictures)[-1]["depth"][:1], model(pictures[:1])[-1]["depth"])


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


def test_coordinates_tell_places_apart():
    torch.manual_seed(0)
    model = tiny("dla34", coordinates=True).eval()
    seen = []
    model.network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    model(torch.zeros(1, 3, 64, 96))
    rows, columns = seen[0][0, 3:]
    assert torch.equal(rows[:, 0], torch.linspace(-1, 1, 64)) and torch.equal(rows[:, 0], rows[:, -1])
    assert torch.equal(columns[0], torch.linspace(-1, 1, 96)) and torch.equal(columns[0], columns[-1])


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
        assert count_parameters(hourglass(3, {})) == pytest.approx(187.7e6, rel=1e-3)


def test_every_stack_is_supervised_in_training_and_the_last_predicts():
    model = tiny("hourglass", stacks=3, modules=1, depth=2)
    pictures = torch.randn(2, 3, 64, 64)
    assert len(model(pictures)) == 3
    assert len(model.eval()(pictures)) == 1
    # In evaluation it is the last stack's own heads that speak.
    nn.init.constant_(model.heads[-1]["depth"].output.bias, 7.0)
    nn.init.zeros_(model.heads[-1]["depth"].output.weight)
    assert (model(pictures)[-1]["depth"] == 7).all()


def test_hourglass_of_odd_maps_equals_the_padded_one():
    """Enlarging to an odd size crops the twofold map, so that cells stay aligned with the finer scale."""
    for size in range(1, 40):
        coarse = torch.arange(math.ceil(size / 2), dtype=torch.float32)
        enlarged = upsample_to(coarse.view(1, 1, 1, -1), torch.empty(1, 1, 1, size)).flatten()
        assert torch.equal(enlarged, coarse.repeat_interleave(2)[:size])


# Published networks and pretrained weights


@pytest.mark.parametrize("backbone", [f"efficientnet_{size}" for size in SIZES])
def test_efficientnets_have_the_published_tensors(backbone):
    with torch.device("meta"):
        published = pretrained_module.timm.create_model(
            published_name(backbone), features_only=True, out_indices=(1, 2, 3, 4)
        )
        own = efficientnet(backbone, 1.0, 3)
    shapes = [{n: t.shape for n, t in model.state_dict().items()} for model in (own, published)]
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize("backbone", ["efficientnet_lite0", "efficientnet_b0"])
def test_efficientnets_compute_what_the_published_ones_do(backbone):
    """The same weights under another padding or another epsilon load well and give other maps."""
    published = pretrained_module.timm.create_model(
        published_name(backbone), features_only=True, out_indices=(1, 2, 3, 4)
    )
    own = efficientnet(backbone, 1.0, 3).eval()
    own.load_state_dict(published.state_dict())
    picture = torch.randn(1, 3, 64, 96)
    for ours, theirs in zip(own(picture), published.eval()(picture), strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("backbone", ["efficientnet_lite0", "dla34", "hourglass"])
def test_weights_by_path_round_trip(backbone, suffix, tmp_path):
    source = tiny(backbone).eval()
    backbone_module = source if backbone == "hourglass" else source.encoder
    weights = {n: t for n, t in backbone_module.state_dict().items() if not n.startswith("heads.")}
    path = tmp_path / f"weights{suffix}"
    save_file(weights, path) if suffix == ".safetensors" else torch.save({"state_dict": weights}, path)
    loaded = tiny(backbone, pretrained=str(path))
    target = (loaded if backbone == "hourglass" else loaded.encoder).state_dict()
    assert all(torch.equal(target[name], weights[name]) for name in weights)


def test_weights_under_other_names_are_taken_by_order(tmp_path):
    source = efficientnet("efficientnet_lite0", 0.125, 3).state_dict()
    renamed = {f"_other.{i}": t for i, (n, t) in enumerate(source.items()) if "num_batches" not in n}
    torch.save(renamed | {"_fc.weight": torch.zeros(10, 10)}, tmp_path / "w.pth")
    encoder = tiny("efficientnet_lite0", pretrained=str(tmp_path / "w.pth")).encoder.state_dict()
    assert all(torch.equal(encoder[name], source[name]) for name in source)


def test_new_input_channels_start_without_influence(tmp_path):
    source = dla34(0.125, 3)
    torch.save(source.state_dict(), tmp_path / "w.pth")
    encoder = tiny(
        "dla34", in_channels=4, coordinates=True, pretrained=str(tmp_path / "w.pth")
    ).network.encoder
    picture = torch.randn(1, 3, 64, 64)
    extended = torch.cat([picture, torch.randn(1, 3, 64, 64)], dim=1)
    for ours, theirs in zip(encoder.eval()(extended), source.eval()(picture), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_pretrained_scale_and_shift_survive_group_norm(tmp_path):
    weights = dla34(0.125, 3).state_dict()
    weights["base_layer.1.weight"].fill_(3.0)
    torch.save(weights, tmp_path / "w.pth")
    model = tiny("dla34", norm="group", pretrained=str(tmp_path / "w.pth"))
    first = next(module for module in model.modules() if isinstance(module, nn.GroupNorm))
    assert (first.weight == 3).all()


def test_wrong_weights_are_told_and_copy_nothing(tmp_path):
    torch.save(efficientnet("efficientnet_lite0", 0.25, 3).state_dict(), tmp_path / "wide.pth")
    with pytest.raises(UserError, match=r"wide.pth.*check backbone and width"):
        tiny("efficientnet_lite0", pretrained=str(tmp_path / "wide.pth"))
    (tmp_path / "text.pth").write_text("no weights")
    with pytest.raises(UserError, match=r"text.pth: not a file of weights"):
        tiny("dla34", pretrained=str(tmp_path / "text.pth"))
    with pytest.raises(UserError, match="is not a file; use none, hub or the path"):
        tiny("dla34", pretrained="imagenet")


def test_hub_out_of_reach_is_told(monkeypatch):
    def unreachable(*_, **__):
        raise ConnectionError("no route")

    monkeypatch.setattr(pretrained_module.timm, "create_model", unreachable)
    with pytest.raises(UserError, match=r"tf_efficientnet_lite0 could not be fetched.*set pretrained: none"):
        build_model("efficientnet_lite0", heads=HEADS, pretrained="hub")
    with pytest.raises(UserError, match="no weights of dla34 at width 0.125"):
        tiny("dla34", pretrained="hub")
    with pytest.raises(UserError, match="no weights of hourglass at width"):
        tiny("hourglass", pretrained="hub")


@pytest.mark.parametrize(
    "options, told",
    [
        ({"backbone": "resnet18"}, "resnet18.*efficientnet_b0.*dla34, hourglass"),
        ({"neck": "pan"}, "fpn, ida, unet"),
        ({"norm": "layer"}, "batch or group"),
        ({"in_channels": 5}, "3, or 4 with the mask"),
        ({"width": 0}, "above 0"),
        ({"heads": {}}, "channels by name"),
        ({"stacks": 0}, "stacks: 0 will not do; use 1 or more"),
    ],
)
def test_wrong_arguments_are_told(options, told):
    with pytest.raises(UserError, match=told):
        build_model(**{"backbone": "dla34", "heads": HEADS, **options})
