"""A key that occurs twice is an error that says where."""

import pytest

from carpose.core.errors import UserError
from carpose.core.keyed import load_json, read_yaml


def test_valid_yaml_is_read(tmp_path):
    path = tmp_path / "a.yaml"
    text = "a: {x: 1, y: [1, 2.5]}\nb: &base {x: 3, k: off}\nc:\n  <<: *base\n  x: 4\n1: é\n'1': z\n"
    path.write_text(text, encoding="utf-8")
    assert read_yaml(path) == {
        **{"a": {"x": 1, "y": [1, 2.5]}, "b": {"x": 3, "k": False}, "c": {"x": 4, "k": False}},
        **{1: "é", "1": "z"},
    }
    path.write_text("# nothing\n")
    assert read_yaml(path) is None


@pytest.mark.parametrize(
    "text, line, key, first",
    [
        ("a: 1\nb: 2\na: 3\n", 3, "a", 1),
        ("train:\n  lr: 1\n  epochs: 2\n  lr: 3\n", 4, "lr", 2),
        ("train: {lr: 1, epochs: 2, lr: 3}\n", 1, "lr", 1),
        ("models:\n- {a: 1}\n- b: {c: 1,\n     'c': 2}\n", 4, "c", 3),
        ('{"a": 1,\n "a": 1}', 2, "a", 1),
    ],
)
def test_a_duplicate_key_names_file_and_line(tmp_path, text, line, key, first):
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(UserError) as error:
        read_yaml(tmp_path / "a.yaml")
    where = f"{tmp_path}/a.yaml, line {line}: the key {key} occurs twice, first in line {first}"
    assert str(error.value) == f"{where}; keep one of them"


@pytest.mark.parametrize("content", [None, b"a: [1", b"\xff\xfe\x00"])
def test_invalid_yaml_names_the_file(tmp_path, content):
    if content is not None:
        (tmp_path / "a.yaml").write_bytes(content)
    with pytest.raises(UserError, match="a.yaml(, line 1)?: not readable as YAML"):
        read_yaml(tmp_path / "a.yaml")


def test_duplicate_keys_of_json():
    assert load_json('{"a": {"x": 1}, "b": {"x": 2}}') == {"a": {"x": 1}, "b": {"x": 2}}
    with pytest.raises(ValueError, match="the key x occurs twice"):
        load_json('{"a": {"x": 1, "y": 2, "x": 1}}')
