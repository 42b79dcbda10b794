"""The number format follows the hardware."""

import pytest
import torch

from carpose.device import number_format

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [
        ({"cpu_name": "AMD EPYC 9R14", "avx512_bf16": True}, torch.bfloat16),
        ({"cpu_name": "Intel Xeon", "avx512_bf16": True, "amx_bf16": True}, torch.bfloat16),
        ({"cpu_name": "Intel Xeon", "avx512_bf16": True, "amx_bf16": False}, None),
        ({"cpu_name": "AMD Ryzen", "avx512_bf16": False}, None),
        ({}, None),
    ],
)
def test_bf16_where_it_is_fast(monkeypatch, capabilities, expected):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert number_format(CPU, "auto") is expected
    assert number_format(CPU, "off") is None and number_format(CPU, "bf16") is torch.bfloat16
