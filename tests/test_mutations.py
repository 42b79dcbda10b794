"""The table of bugs for benchmarks.mutations fits the code; what the command says of a small repository."""

import pytest

from benchmarks import mutations
from benchmarks.mutations import ROOT, Mutation
from carpose.core.errors import UserError

ADD = "def add(a, b):\n    return a + b\n"
TEST = "from adding import add\n\n\ndef test_add():\n    assert add(2, 2) == 4\n"


def mutation(replacement, source="a + b", name="one", test="tests/test_add.py"):
    return Mutation(name, "workflow/adding.py", source, replacement, "a slip", [test])


@pytest.fixture
def repository(tmp_path):
    for name, text in {"workflow/adding.py": ADD, "tests/test_add.py": TEST}.items():
        path = tmp_path / "repository" / name
        path.parent.mkdir(parents=True)
        path.write_text(text)
    return tmp_path / "repository"


@pytest.mark.parametrize("bug", mutations.read_table(), ids=lambda bug: bug.name)
def test_every_mutation_fits_the_code(bug):
    assert bug.mutated(ROOT) != (ROOT / bug.file).read_text(encoding="utf-8")
    assert bug.tests


def test_bugs_are_caught_or_survive_and_results_are_kept(repository, tmp_path, capsys):
    results = tmp_path / "results" / "mutations.jsonl"
    bugs = [mutation("a - b", name="minus"), mutation("a * b", name="times")]
    assert mutations.check(bugs, results, repository) == 1
    printed = capsys.readouterr().out
    assert "minus  caught by tests/test_add.py::test_add" in printed and "times  SURVIVED" in printed
    assert "2 mutations, 1 caught (50.0%), 1 survived" in printed
    assert (repository / "workflow" / "adding.py").read_text() == ADD

    results.write_text(results.read_text()[:-20])  # interrupted while the last result was written
    assert mutations.check(bugs, results, repository) == 1
    printed = capsys.readouterr().out
    assert "1 mutations; first their tests" in printed and printed.count("minus") == 1
    assert mutations.check(bugs, results, repository) == 1
    assert "first their tests" not in capsys.readouterr().out  # nothing was run again

    (repository / "tests" / "test_add.py").write_text(TEST + "    assert add(2, 3) == 5\n")
    assert mutations.check(bugs, results, repository) == 0  # of the survivor alone the tests were run
    printed = capsys.readouterr().out
    assert "1 mutations; first their tests" in printed and printed.count("minus") == 1


def test_what_stops_the_check(repository, tmp_path):
    results = tmp_path / "mutations.jsonl"
    with pytest.raises(UserError, match=r"workflow/adding\.py: the source text of one occurs 0 times"):
        mutations.check([mutation("a - b", source="a+b")], results, repository)
    with pytest.raises(UserError, match="is not valid Python"):
        mutations.check([mutation("a +")], results, repository)
    with pytest.raises(UserError, match="tests/missing.py: there is no such test"):
        mutations.check([mutation("a - b", test="tests/missing.py")], results, repository)
    tests = repository / "tests" / "test_add.py"
    tests.write_text("import no_such_module\n")
    with pytest.raises(UserError, match=r"pytest cannot run tests/test_add\.py"):
        mutations.check([mutation("a - b")], results, repository)
    tests.write_text(TEST.replace("4", "5"))
    with pytest.raises(UserError, match="test_add fails without any mutation"):
        mutations.check([mutation("a - b")], results, repository)
    assert not results.exists()
