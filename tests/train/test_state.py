"""The state file: written atomically, verified, bound to its training."""

import hashlib
import io

import pytest
import torch

from carpose.train import state
from tests.helpers import Bomb


@pytest.fixture
def path(tmp_path):
    return tmp_path / "state.pt"


def test_round_trip(path):
    state.save(path, "a", {"x": torch.arange(3)})
    assert torch.equal(state.load(path, "a")["x"], torch.arange(3))
    state.remove(path)
    assert state.load(path, "a") is None


@pytest.mark.parametrize(
    "damage", [lambda data: data[:-50], lambda data: data[:90] + b"?" + data[91:], lambda data: b""]
)
def test_damaged_state_falls_back_to_the_one_before(path, damage, capsys):
    state.save(path, "a", {"x": 1})
    state.save(path, "a", {"x": 2})
    path.write_bytes(damage(path.read_bytes()))
    assert state.load(path, "a") == {"x": 1}
    assert "damaged" in capsys.readouterr().err


def test_a_state_of_another_configuration_is_renamed(path, capsys):
    state.save(path, "a", {"x": 1})
    assert state.load(path, "b") is None
    assert "another configuration" in capsys.readouterr().err
    assert path.with_name("state.pt.other-inputs").exists() and not path.exists()


def test_failed_write_leaves_the_state_before(path, monkeypatch):
    state.save(path, "a", {"x": 1})
    monkeypatch.setattr(
        "os.fsync", lambda handle: (_ for _ in ()).throw(OSError(28, "No space left on device"))
    )
    with pytest.raises(OSError):
        state.save(path, "a", {"x": 2})
    monkeypatch.undo()
    assert state.load(path, "a") == {"x": 1}
    assert not list(path.parent.glob(".*")), "no partial file is left"


def test_a_state_that_would_run_code_is_not_used(tmp_path, capsys):
    payload = io.BytesIO()
    torch.save({"digest": "a", "state": Bomb(tmp_path / "ran")}, payload)
    data = payload.getvalue()
    (tmp_path / "state.pt").write_bytes(hashlib.sha256(data).digest() + data)
    assert state.load(tmp_path / "state.pt", "a") is None
    assert not (tmp_path / "ran").exists()
    message = capsys.readouterr().err
    assert "not used (it is not a state, and might run code" in message and message.count("\n") == 1


@pytest.mark.parametrize("content", [torch.zeros(2), {"digest": "a"}, []])
def test_a_file_of_something_else_is_not_used(path, content, capsys):
    payload = io.BytesIO()
    torch.save(content, payload)
    path.write_bytes(hashlib.sha256(payload.getvalue()).digest() + payload.getvalue())
    assert state.load(path, "a") is None and "not used" in capsys.readouterr().err
