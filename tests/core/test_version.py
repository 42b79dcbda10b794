"""The code's version is written into every result; a note is printed where other code reads it."""

import pandas as pd
import pytest
import torch

from carpose.core import files, parquet, version
from carpose.network.checkpoint import load_checkpoint
from tests.predict.small import checkpoint

OTHER = {"code": "0.0.1+old", "code_digest": "0123"}


@pytest.fixture
def stderr_of_reading(monkeypatch, capsys):
    """A function: what a command that reads these tables and checkpoints prints on stderr."""

    def run(*paths):
        monkeypatch.setattr(version, "_used", {})

        def main():
            for path in paths:
                load_checkpoint(path) if path.suffix == ".pt" else parquet.read(path, {})

        with pytest.raises(SystemExit):
            files.run_main(main)
        return capsys.readouterr().err

    return run


def test_one_note_names_results_of_other_code(stderr_of_reading, tmp_path):
    table = pd.DataFrame({"ImageId": ["a"]})
    parquet.write(tmp_path / "new.parquet", table)
    parquet.write(tmp_path / "old.parquet", table, **OTHER)
    table.to_parquet(tmp_path / "user.parquet")  # has no provenance
    new, old = checkpoint(tmp_path / "new.pt"), checkpoint(tmp_path / "old.pt", provenance=OTHER)
    assert stderr_of_reading(tmp_path / "new.parquet", tmp_path / "user.parquet", new) == ""
    for results in ((tmp_path / "new.parquet", tmp_path / "old.parquet"), (new, old)):
        (line,) = stderr_of_reading(*results).splitlines()
        for word in ("1 of 2", results[1].name, "0.0.1+old", version.code_version(), "-R RULE"):
            assert word in line


def test_the_digest_is_that_of_the_sources(monkeypatch, tmp_path):
    def digest():
        version.code_digest.cache_clear()
        return version.code_digest()

    first = digest()
    (tmp_path / "stage").mkdir()
    monkeypatch.setattr(version, "LIBRARY", tmp_path)
    empty = digest()
    (tmp_path / "stage" / "one.py").write_text("")
    added = digest()
    (tmp_path / "stage" / "one.py").write_text("changed = True")
    changed = digest()
    (tmp_path / "stage" / "notes.txt").write_text("not code")
    assert digest() == changed and len({first, empty, added, changed}) == 4
    monkeypatch.undo()
    assert digest() == first


def test_a_checkpoint_holds_the_code_version(tmp_path):
    content = torch.load(checkpoint(tmp_path / "new.pt"), weights_only=True)
    assert content["provenance"] == version.provenance()
