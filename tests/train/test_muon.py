"""Muon against timm's, which orthogonalises one matrix at a time, and against singular values."""

import functools

import pytest
import torch
from torch import nn

import models.torchvision_shim  # noqa: F401  must come before timm
from carpose.train.muon import COEFFICIENTS, MOMENTUM, Muon, as_matrix, is_matrix, orthogonalising_factors

import timm.optim.muon  # isort: skip


def orthogonal(matrices):
    return [factor @ x for factor, x in zip(orthogonalising_factors(matrices), matrices, strict=True)]


@pytest.mark.parametrize("width", [12, 72, 432])
def test_factors_agree_with_newton_schulz_on_the_matrices(width):
    spread = torch.logspace(0, -2, width, dtype=torch.double)
    matrices = list(torch.randn(3, 8, width, dtype=torch.double) * spread)
    expected = [
        timm.optim.muon.zeropower_via_newtonschulz(x, 5, list(COEFFICIENTS), dtype=torch.double)
        for x in matrices
    ]
    for result, value in zip(orthogonal(matrices), expected, strict=True):
        torch.testing.assert_close(result, value)
    for result, value in zip(orthogonal([x.float() for x in matrices]), expected, strict=True):
        torch.testing.assert_close(result.double(), value, atol=1e-4, rtol=1e-4)


def test_singular_values_become_about_one():
    (result,) = orthogonal([torch.randn(16, 144)])
    values = torch.linalg.svdvals(result)
    assert values.min() > 0.7 and values.max() < 1.2
    assert torch.equal(orthogonal([torch.zeros(4, 9)])[0], torch.zeros(4, 9))


def test_weights_are_matrices_in_any_memory_format():
    weight = torch.randn(8, 4, 3, 3)
    for one in (weight, weight.to(memory_format=torch.channels_last), torch.randn(64, 4, 1, 1)):
        before, matrix = one.clone(), as_matrix(one)
        assert len(matrix) == min(len(one), one[0].numel()) and matrix.numel() == one.numel()
        matrix.mul_(2)
        assert torch.equal(one, 2 * before)
        for row, channel in zip(matrix if len(matrix) == len(one) else matrix.mT, one, strict=True):
            assert torch.equal(row.sort().values, channel.flatten().sort().values)
    assert is_matrix(weight) and not is_matrix(torch.randn(8)) and not is_matrix(torch.randn(1, 32, 1, 1))
    assert not is_matrix(torch.randn(32, 1, 3, 3)), "a depthwise convolution"


def network(memory_format=torch.channels_last):
    torch.manual_seed(0)
    layers = [
        nn.Conv2d(3, 8, 3, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 64, 1),
        nn.Conv2d(64, 8, 3),
    ]
    return nn.Sequential(*layers).to(memory_format=memory_format)


def steps(model, optimizer, count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    for _ in range(count):
        optimizer.zero_grad()
        model(torch.randn(2, 3, 12, 12, generator=generator)).square().mean().backward()
        optimizer.step()
    return nn.utils.parameters_to_vector([p.contiguous() for p in model.parameters()])


@pytest.mark.parametrize("memory_format", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_steps_are_those_of_timm(monkeypatch, decay, memory_format):
    exact = functools.partial(timm.optim.muon.zeropower_via_newtonschulz, dtype=torch.float32)
    monkeypatch.setattr(timm.optim.muon, "zeropower_via_newtonschulz", exact)
    ours, theirs = network(memory_format), network()
    groups = [
        {"params": [p for p in theirs.parameters() if p.ndim > 1]},
        {"params": [p for p in theirs.parameters() if p.ndim == 1], "weight_decay": 0.0},
    ]
    expected = steps(theirs, timm.optim.muon.Muon(groups, lr=0.01, weight_decay=decay, momentum=MOMENTUM), 6)
    result = steps(ours, Muon(ours.parameters(), lr=0.01, weight_decay=decay), 6)
    torch.testing.assert_close(result, expected, atol=2e-4, rtol=1e-3)


def test_it_resumes_from_its_state():
    uninterrupted, resumed = network(), network()
    optimizer = Muon(uninterrupted.parameters(), lr=0.01, weight_decay=0.0)
    steps(uninterrupted, optimizer, 3)
    expected = steps(uninterrupted, optimizer, 3, seed=1)
    first = Muon(resumed.parameters(), lr=0.01, weight_decay=0.0)
    steps(resumed, first, 3)
    second = Muon(resumed.parameters(), lr=0.01, weight_decay=0.0)
    second.load_state_dict(first.state_dict())
    assert torch.equal(steps(resumed, second, 3, seed=1), expected)
