"""Damaged checkpoints and training states: a checkpoint is refused in one line, a state is not used.

Files cut off, of other objects, or that would run code are in tests/network/test_checkpoint.py and
tests/train/test_state.py.
"""

import hashlib
import io
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from carpose.core.errors import UserError
from carpose.network.checkpoint import load_checkpoint
from carpose.predict.members import load_members
from carpose.train import state
from tests.bad_input.damage import Case, as_folder, cases, link, recode, write
from tests.predict.small import CPU, checkpoint

INVALID = r"model.pt: not a checkpoint of this version \(\w+: [^\n]*\); delete it, and the same command"


def changed(function):
    """The checkpoint with its content changed by a function."""

    def change(path: Path) -> None:
        content = torch.load(path, weights_only=True)
        result = function(content)
        torch.save(content if result is None else result, path)

    return change


def without(section: str, name: str = ""):
    """The checkpoint without an entry of a section, by default the first."""

    def change(content: dict) -> None:
        del content[section][name or next(iter(content[section]))]

    return changed(change)


def weight(function):
    """The first weights of the network changed by a function."""

    def change(content: dict) -> None:
        name = next(name for name, value in content["weights"].items() if value.dim() == 4)
        content["weights"][name] = function(content["weights"][name])

    return changed(change)


def setting(**values):
    return changed(lambda content: content["train_config"].update(values))


def about(**values):
    return changed(lambda content: content["provenance"].update(values))


def filled(value: float):
    def fill(tensor: torch.Tensor) -> torch.Tensor:
        tensor = tensor.clone()
        tensor.reshape(-1)[3] = value
        return tensor

    return weight(fill)


FILES = [
    Case("zeros", recode("", lambda content: bytes(len(content))), INVALID),
    Case("one byte more", recode("", lambda content: content + b"\0" * 70000), INVALID),
    Case("a ZIP of something else", lambda path: zipfile.ZipFile(path, "w").writestr("a.txt", "a"), INVALID),
    Case("an error page", write("", "<html>404</html>"), INVALID),
    Case("a pointer of Git LFS", write("", "version https://git-lfs.github.com/spec/v1\n"), INVALID),
    Case("safetensors", lambda path: save_file({"a": torch.zeros(2)}, path), INVALID),
    Case("a folder", as_folder(""), r"model.pt: Is a directory|" + INVALID),
    Case("a link to itself", link("", "model.pt"), r"model.pt: .*[Tt]oo many levels of symbolic links"),
    Case("a link to nothing", link("", "nowhere.pt"), r"model.pt: file not found"),
    Case("network weights alone", changed(lambda content: content["weights"]), INVALID),
    Case("an empty dictionary", changed(lambda content: {}), INVALID),
    Case("a list", changed(lambda content: [1, 2]), INVALID),
    Case("nothing", changed(lambda content: {None: None}), INVALID),
]
WEIGHTS = [
    Case("NaN", filled(float("nan")), r"model.pt: .*weights.* not finite"),
    Case("infinity", filled(float("inf")), r"model.pt: .*weights.* not finite"),
    Case("one weight less", weight(lambda tensor: tensor[1:]), INVALID),
    Case("transposed", weight(lambda tensor: tensor.transpose(0, 3)), INVALID),
    Case("no tensor", weight(lambda tensor: 1.0), INVALID),
    Case("complex", weight(lambda tensor: tensor * 1j), INVALID),
    Case("one tensor is missing", without("weights"), INVALID),
    Case(
        "one tensor more", changed(lambda content: content["weights"].update(extra=torch.zeros(2))), INVALID
    ),
    Case(
        "a prefix",
        changed(
            lambda content: content.update(
                weights={f"module.{name}": value for name, value in content["weights"].items()}
            )
        ),
        INVALID,
    ),
    Case("half precision", weight(torch.Tensor.half), "", ""),
]
SETTINGS = [
    Case("an unknown key", setting(learning_rate=1.0), INVALID),
    Case(
        "a key of the wrong type", setting(input_width="192"), r"model.pt: .*input_width: invalid value '192'"
    ),
    Case(
        "a size that no network has", setting(input_width=190), r"model.pt: .*input_width: invalid value 190"
    ),
    Case("a negative size", setting(input_height=-64), r"model.pt: .*input_height: invalid value -64"),
    Case("no number", setting(perspective=float("nan")), r"model.pt: .*perspective: invalid value nan"),
    Case("an unknown format of numbers", setting(amp="fp8"), r"model.pt: .*amp: invalid value 'fp8'"),
    Case("an unknown parametrisation", setting(depth="cubic"), r"model.pt: .*depth: invalid value 'cubic'"),
    Case("an unknown head", setting(heads=["size"]), r"model.pt: .*heads.0: invalid value 'size'"),
    Case("a list for a text", setting(backbone=["dla34"]), r"model.pt: "),
    Case("a crop of three numbers", setting(crop=[0, 0.5, 1]), r"model.pt: .*crop: invalid value"),
    Case("weights of the hub, which are not needed", setting(pretrained="nowhere.pth"), "", ""),
]
CAMERAS = [
    Case(
        "no camera",
        without("provenance", "camera"),
        r"model.pt: the camera in it",
    ),
    Case("no provenance", changed(lambda content: content.update(provenance=5)), INVALID),
    Case(
        "a camera that is text", about(camera="fx = 3"), r"model.pt: the camera in it is missing or invalid"
    ),
    Case(
        "intrinsics of eight numbers",
        about(camera={"intrinsics": [1.0] * 8}),
        r"the camera in it is .*invalid",
    ),
    Case(
        "NaN in the intrinsics",
        changed(
            lambda content: content["provenance"]["camera"].update(
                intrinsics=[[float("nan"), 0, 1], [0, 1, 1], [0, 0, 1]]
            )
        ),
        r"model.pt: the camera in it is .*invalid",
    ),
    Case(
        "a view of zeros",
        changed(lambda content: content["provenance"]["camera"].update(view=[[0.0] * 3] * 3)),
        r"model.pt: the camera in it is .*invalid",
    ),
    Case(
        "no photo",
        changed(lambda content: content["provenance"]["camera"].update(photo_size=[0, 0])),
        r"model.pt: the camera in it is .*invalid",
    ),
]
CAMERA = {
    "photo_size": [338, 271],
    "size": [338, 271],
    "intrinsics": [[230.0, 0, 168], [0, 230.0, 135], [0, 0, 1]],
    "view": [[1.0, 0, 0], [0, 1.0, 0], [0, 0, 1.0]],
}


@pytest.fixture(scope="module")
def valid(tmp_path_factory) -> bytes:
    path = tmp_path_factory.mktemp("valid") / "model.pt"
    return checkpoint(path, {"fold": 0, "camera": CAMERA}).read_bytes()


@cases(FILES, WEIGHTS, SETTINGS, CAMERAS)
def test_the_checkpoint_is_named(case, valid, tmp_path):
    path = tmp_path / "model.pt"
    path.write_bytes(valid)
    case.damage(path)
    try:
        load_members([str(path)], CPU)
    except UserError as error:
        assert case.severity and re.search(case.message, str(error)), str(error)
        assert "\n" not in str(error) and len(str(error)) < 400 + len(str(path))
    except OSError as error:  # run_main prints these in one line
        assert case.severity and re.search(case.message, f"{error.filename}: {error.strerror}")
    else:
        assert not case.severity


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_damage_of_a_checkpoint_is_one_line(valid, tmp_path, data):
    """At its head, in its index, or anywhere."""
    start = data.draw(st.one_of(st.integers(0, 2000), st.integers(-3000, -1), st.integers(0, len(valid) - 1)))
    start %= len(valid)
    end = data.draw(st.integers(start, min(start + 30, len(valid))))
    path = tmp_path / "model.pt"
    path.write_bytes(valid[:start] + data.draw(st.binary(max_size=30)) + valid[end:])
    try:
        load_checkpoint(path)
    except UserError as error:
        assert str(path) in str(error) and "\n" not in str(error)


# Training states


def packed(content) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return hashlib.sha256(buffer.getvalue()).digest() + buffer.getvalue()


STATES = [
    Case("shorter than its hash", write("", b"short"), r"state.pt: not used \(the file is damaged"),
    Case("its hash alone", recode("", lambda content: content[:32]), r"state.pt: not used"),
    Case(
        "zeros of a lost block", recode("", lambda content: content[:-64] + bytes(64)), r"not used .*damaged"
    ),
    Case(
        "one bit",
        recode("", lambda content: content[:99] + bytes([content[99] ^ 1]) + content[100:]),
        r"damaged",
    ),
    Case("without its hash", recode("", lambda content: content[32:]), r"state.pt: not used .*damaged"),
    Case("a checkpoint", lambda path: checkpoint(path), r"state.pt: not used .*damaged"),
    Case("a folder as state", as_folder(""), r"state.pt: not used .*Is a directory"),
    Case("a text", write("", packed("state")), r"state.pt: not used"),
    Case("a number", write("", packed(5)), r"state.pt: not used"),
    Case("no digest", write("", packed({"state": {}})), r"state.pt: not used"),
    Case("no state", write("", packed({"digest": "a"})), r"state.pt: not used"),
    Case(
        "a pickle that is no archive",
        write("", hashlib.sha256(b"\x80\x04N.").digest() + b"\x80\x04N."),
        r"not used",
    ),
    Case(
        "another training",
        write("", packed({"digest": "b", "state": {}})),
        r"another configuration or other data",
    ),
]


@cases(STATES)
def test_a_state_that_cannot_be_used_is_named_and_the_one_before_is_used(case, tmp_path, capsys):
    path = tmp_path / "state.pt"
    for number in (1, 2):
        state.save(path, "a", {"x": number})
    case.damage(path)
    assert state.load(path, "a") == {"x": 1}
    message = capsys.readouterr().err
    assert re.search(case.message, message) and message.count("\n") == 1 and "Traceback" not in message
    path.with_name("state.pt.previous").unlink()
    assert state.load(path, "a") is None


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_damage_of_a_state_leads_to_the_one_before(tmp_path, data):
    path = tmp_path / "state.pt"
    for number in (1, 2):
        state.save(path, "a", {"x": np.float64(number).item()})
    content = path.read_bytes()
    start = data.draw(st.integers(0, len(content) - 1))
    damaged = (
        content[:start] + data.draw(st.binary(max_size=40)) + content[start + data.draw(st.integers(0, 40)) :]
    )
    path.write_bytes(damaged)
    assert state.load(path, "a") == ({"x": 2.0} if damaged == content else {"x": 1.0})
