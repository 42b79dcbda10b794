"""Options that command lines share."""

import pytest

from carpose.core.errors import UserError
from carpose.core.options import named_paths


def test_files_are_named(tmp_path):
    (tmp_path / "lr=0.01").mkdir()
    path = tmp_path / "lr=0.01" / "test.csv"
    path.touch()
    assert named_paths([str(path), f"a={path}", "b=elsewhere.csv", "c.csv"]) == {
        "test": str(path),
        "a": str(path),
        "b": "elsewhere.csv",
        "c": "c.csv",
    }
    with pytest.raises(UserError, match="two files are called test; give one of them another name"):
        named_paths([str(path), "test=x.csv"])
    with pytest.raises(UserError, match="'=x.csv': give each file as NAME=PATH, or PATH"):
        named_paths(["=x.csv"])
