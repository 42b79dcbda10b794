"""Checkpoints."""

import numpy as np
import pytest
import torch

from carpose.core.errors import UserError
from carpose.network.checkpoint import load_checkpoint, weights_digest
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
            UserError, match=rf"{name}.pt: not a checkpoint of this version \(\w+: .*trains the"
        ):
            load_checkpoint(file)
    with pytest.raises(UserError, match="nowhere.pt: file not found"):
        load_checkpoint(tmp_path / "nowhere.pt")


@pytest.mark.parametrize("key", ["weights", "train_config", "provenance", "other"])
def test_a_checkpoint_that_would_run_code_is_refused(tmp_path, key):
    content = torch.load(checkpoint(tmp_path / "whole.pt"), weights_only=True)
    torch.save(content | {key: Bomb(tmp_path / "ran")}, tmp_path / "bomb.pt")
    with pytest.raises(
        UserError,
        match=r"bomb.pt: not a checkpoint .* might run code\); delete it, and .* trains the model again$",
    ):
        load_checkpoint(tmp_path / "bomb.pt")
    assert not (tmp_path / "ran").exists()


def test_changed_bytes_of_a_checkpoint_are_noticed(tmp_path):
    """torch itself compares no checksums: it would load other network weights."""
    file = checkpoint(tmp_path / "model.pt")
    data, rng = file.read_bytes(), np.random.default_rng(0)
    network = load_checkpoint(file)[0]
    noticed = 0
    for place in rng.integers(0, len(data) - 64, 40):
        changed = np.frombuffer(data, np.uint8).copy()
        changed[place : place + 64] ^= 1
        file.write_bytes(changed.tobytes())
        try:
            again = load_checkpoint(file)[0]
        except UserError as error:
            assert "model.pt: not a checkpoint of this version" in str(error) and "; delete it, and" in str(
                error
            )
            noticed += 1
        else:  # in the padding between the parts of the file
            assert weights_digest(again) == weights_digest(network)
    assert noticed > 30
