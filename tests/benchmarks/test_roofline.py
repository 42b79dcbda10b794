"""The floor under a GPU's time: counted work of known sizes."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode  # noqa: PLC2701  it has no other name
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import measure, roofline
from carpose.network.checkpoint import build

MIB = 2**20


@pytest.mark.parametrize("groups", [1, 8])
def test_a_convolution_and_its_backward_pass(groups):
    conv = torch.nn.Conv2d(8, 16, 3, padding=1, bias=False, groups=groups)
    x = torch.rand(2, 8, 32, 64, requires_grad=True)
    with roofline.Traffic() as traffic:
        conv(x).sum().backward()
    products = 2 * 16 * 32 * 64 * 9 * 8 // groups
    sizes = [4 * tensor.numel() for tensor in (x, conv.weight)] + [4 * 2 * 16 * 32 * 64]
    works = [operation for operation in traffic.operations if operation[0] == "convolutions"]
    assert [work for _, work, _ in works] == [2 * products, 4 * products]
    # Reads picture and weights, writes maps; then reads all three and writes the gradients of two.
    assert [moved for *_, moved in works] == [sum(sizes), sum(sizes) + sum(sizes[:2])]


def test_a_view_moves_nothing_and_a_change_in_place_reads_and_writes():
    x = torch.rand(4, 1000)
    with roofline.Traffic() as traffic:
        x.view(2, 2000).t()[3:, 1:]
    assert not traffic.operations
    with roofline.Traffic() as traffic:
        x.mul_(2)
    assert [moved for *_, moved in traffic.operations] == [2 * 4 * 4000]


def test_a_pick_reads_what_it_gives():
    x, rows = torch.rand(100_000, 8), torch.arange(10)
    with roofline.Traffic() as traffic:
        x.index_select(0, rows)
    assert [moved for *_, moved in traffic.operations] == [2 * 10 * 8 * 4]


def test_memory_is_the_most_at_one_time():
    def chain(x: torch.Tensor) -> None:
        for _ in range(5):
            x = x + 1  # two at a time
        torch.cat([x, x])

    with FakeTensorMode(), roofline.Traffic(held=MIB) as traffic:
        chain(torch.empty(MIB // 4))
    # What was there, and at the end the last sum and both of it joined.
    assert traffic.peak == (1 + 1 + 2) * MIB
    assert traffic.live == MIB


def test_an_operation_takes_the_longer_of_arithmetic_and_memory():
    traffic = roofline.Traffic()
    traffic.operations = [("convolutions", 4e12, 10), ("the rest", 0, 3e9)]
    floor = roofline.floor(traffic, roofline.Card(peak=1e12, bandwidth=1e9), batch=14)
    assert floor["photos/s"] == 2
    assert floor["of the matrix peak"] == pytest.approx(4 / 7, abs=1e-3)
    assert floor["ms by kind"] == {"convolutions": 4000, "the rest": 3000}


@pytest.mark.parametrize("model", ["hourglass", "dla34", "efficientnet"])
def test_a_step_of_every_backbone_is_counted_as_torch_counts_it(model):
    recipe = measure.recipe(model, input_width=192, input_height=64, amp="off", batch_size=2)
    works = roofline.works(recipe)
    assert works["training"].peak > works["prediction"].peak > 0
    model = build(recipe).eval()
    inputs = torch.rand(2, 4 if recipe.mask_channel else 3, 64, 192)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(inputs, torch.arange(2 * 8 * 9))  # 8 cars of 9 cells on each picture
    counted = sum(work for _, work, _ in works["prediction"].operations)
    assert counted == pytest.approx(counter.get_total_flops(), rel=1e-6)
    step = sum(work for _, work, _ in works["training"].operations)
    assert 2.5 * counted < step < 4 * counted  # forward, and twice that backward; all stacks, and Muon
