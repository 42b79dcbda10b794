"""Checkpoints."""

import pytest
import torch

from carpose.core.errors import UserError
from carpose.network.checkpoint import load_checkpoint
from tests.helpers import Bomb
from tests.predict.small import checkpoint


def test_checkpoints_that_cannot_be_used(tmp_path):
    path = checkpoint(tmp_path / "whole.pt")
    content = torch.load(path, weights_only=True)
    broken = {
        "empty": b"",
        "text": b"no model, but some text",
        "half": path.read_bytes()[: path.stat().st_size // 2],
        "tensor": torch.zeros(3),
        "unknown": content | {"train_config": content["train_config"] | {"backbone": "resnet"}},
        "wider": content | {"train_config": content["train_config"] | {"width": 0.25}},
        "light": content | {"weights": {}},
        "origin": {key: value for key, value in content.items() if key != "provenance"},
    }
    for name, invalid in broken.items():
        file = tmp_path / f"{name}.pt"
        file.write_bytes(invalid) if isinstance(invalid, bytes) else torch.save(invalid, file)
        with pytest.raises(
            UserError, match=rf"{name}.pt: not a checkpoint of this version \(\w+: .*train the"
        ):
            load_checkpoint(file)
    with pytest.raises(UserError, match="nowhere.pt: file not found"):
        load_checkpoint(tmp_path / "nowhere.pt")


@pytest.mark.parametrize("key", ["weights", "train_config", "provenance", "other"])
def test_a_checkpoint_that_would_run_code_is_refused(tmp_path, key):
    content = torch.load(checkpoint(tmp_path / "whole.pt"), weights_only=True)
    torch.save(content | {key: Bomb(tmp_path / "ran")}, tmp_path / "bomb.pt")
    with pytest.raises(
        UserError, match=r"bomb.pt: not a checkpoint .* might run code\); train the model again$"
    ):
        load_checkpoint(tmp_path / "bomb.pt")
    assert not (tmp_path / "ran").exists()
