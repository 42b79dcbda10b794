"""Mutation check: do the tests notice realistic bugs? Each bug of mutations.toml is put into a copy of the
repository, one at a time, and the tests that should notice it are run there.

    python -m benchmarks.mutations                   # all; results/mutations.jsonl keeps what was measured
    python -m benchmarks.mutations fold metric/      # those with one of these texts in name or file
    python -m benchmarks.mutations --list

It can be interrupted: a result is kept as long as the mutation and its file are as they were, and that of a
survivor as long as its tests are, too. Before the mutations, the same tests must pass without one;
--tests-pass skips that, where they have just passed. The exit status is 1 if a mutation survived.
"""

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from carpose.core.errors import UserError
from carpose.core.files import run_main

ROOT = Path(__file__).parents[1]
TABLE = Path(__file__).with_name("mutations.toml")
TIMEOUT = 1800  # seconds; a mutation whose tests take longer counts as caught
NOT_COPIED = shutil.ignore_patterns(".*", "results", "logs", "wheels", "__pycache__", "*.egg-info")


@dataclass(frozen=True)
class Mutation:
    """One bug: a text of a file that is replaced by another, and the tests that should notice it."""

    name: str
    file: str  # path in the repository
    source: str  # occurs exactly once in the file
    replacement: str
    why: str  # why somebody could write this
    tests: list[str]  # files, folders or FILE::TEST for pytest

    def mutated(self, root: Path) -> str:
        """The file's text with the bug. Raises UserError where the source text does not occur exactly once,
        the result is no Python, or a test is missing."""
        for name in self.tests:
            if not (root / name.partition("::")[0]).exists():
                raise UserError(f"{name}: there is no such test; {self.name} names it")
        text = (root / self.file).read_text(encoding="utf-8")
        if (count := text.count(self.source)) != 1:
            found = f"the source text of {self.name} occurs {count} times instead of once"
            raise UserError(f"{self.file}: {found}; adapt benchmarks/mutations.toml to the code")
        result = text.replace(self.source, self.replacement)
        try:
            compile(result, self.file, "exec")
        except SyntaxError as error:
            raise UserError(f"{self.file}: {self.name} is not valid Python ({error})") from None
        return result

    def digest(self, root: Path) -> str:
        """A hash of the mutation and its file."""
        content = json.dumps([self.file, self.source, self.replacement])
        return hashlib.sha256(content.encode() + (root / self.file).read_bytes()).hexdigest()[:16]

    def tests_digest(self, root: Path) -> str:
        """A hash of its tests."""
        hasher = hashlib.sha256()
        for path in (root / name.partition("::")[0] for name in self.tests):
            for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
                hasher.update(file.read_bytes())
        return hasher.hexdigest()[:16]


def read_table(path: Path = TABLE) -> list[Mutation]:
    """The mutations of a table. Raises UserError where it is invalid or a name occurs twice."""
    try:
        mutations = [Mutation(**entry) for entry in tomllib.loads(path.read_text("utf-8"))["mutation"]]
    except (OSError, tomllib.TOMLDecodeError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not a table of mutations ({error})") from error
    names = [mutation.name for mutation in mutations]
    if twice := {name for name in names if names.count(name) > 1}:
        raise UserError(f"{path}: the name {min(twice)} occurs twice")
    return mutations


def run_tests(copy: Path, tests: Iterable[str], timeout: float) -> tuple[bool, str]:
    """Whether the tests pass in this copy of the repository, and the first test that fails.

    Raises UserError where pytest could not run them.
    """
    paths = os.pathsep.join([str(copy / "workflow"), str(copy)])
    # No bytecode: a file that is changed twice in a second would be taken for unchanged.
    # One thread each: on a machine with other work several threads wait for each other.
    environment = os.environ | {"PYTHONPATH": paths, "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    pytest = [sys.executable, "-m", "pytest", "-x", "-q", "-m", "not slow", "--tb=no", "-rfE"]
    pytest += ["-p", "no:cacheprovider", "--color=no", *tests]
    try:
        done = subprocess.run(
            pytest, cwd=copy, env=environment, capture_output=True, text=True, timeout=timeout
        )
    except subprocess.TimeoutExpired:
        return False, f"(no end after {timeout:g} s)"
    if done.returncode == 0:
        return True, ""
    failed = re.search(r"^(?:FAILED|ERROR) (\S+)", done.stdout, re.M)
    if done.returncode != 1 or failed is None:
        raise UserError(f"pytest cannot run {' '.join(tests)}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return False, failed[1]


def read_results(path: Path) -> dict[str, dict]:
    """Results by digest; a line that was not written to its end is ignored."""
    results = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        if line.endswith("}"):
            result = json.loads(line)
            results[result["digest"]] = result
    return results


def check(
    mutations: list[Mutation],
    results_file: Path,
    root: Path = ROOT,
    timeout: float = TIMEOUT,
    tests_pass: bool = False,
) -> int:
    """Run the mutations without a result, print a table of all; returns how many survived.

    timeout: seconds for the tests of a mutation; tests_pass: do not run the tests without a mutation first.
    """
    for mutation in mutations:
        mutation.mutated(root)
    results = read_results(results_file)

    def is_measured(mutation: Mutation) -> bool:
        result = results.get(mutation.digest(root))
        return result is not None and result["survived"] in (False, mutation.tests_digest(root))

    waiting = [mutation for mutation in mutations if not is_measured(mutation)]
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "repository"
        if waiting:
            shutil.copytree(root, copy, ignore=NOT_COPIED)
        if waiting and not tests_pass:
            tests = sorted({name for mutation in waiting for name in mutation.tests})
            print(f"{len(waiting)} mutations; first their tests without one: {' '.join(tests)}", flush=True)
            passed, failed = run_tests(copy, tests, timeout * 2)
            if not passed:
                raise UserError(f"{failed} fails without any mutation; correct it first")
        for mutation in waiting:
            file, digest, start = copy / mutation.file, mutation.digest(root), time.monotonic()
            original = file.read_bytes()
            file.write_text(mutation.mutated(copy), encoding="utf-8")
            passed, test = run_tests(copy, mutation.tests, timeout)
            file.write_bytes(original)
            seconds = round(time.monotonic() - start)
            survived = mutation.tests_digest(root) if passed else False  # these tests
            results[digest] = {"digest": digest, "name": mutation.name, "survived": survived, "test": test}
            results_file.parent.mkdir(parents=True, exist_ok=True)
            with open(results_file, "a", encoding="utf-8") as handle:
                # First a new line: the last one may not have been written to its end.
                handle.write("\n" + json.dumps(results[digest] | {"seconds": seconds}) + "\n")
            print(f"{mutation.name}: {'SURVIVED' if survived else test} ({seconds} s)", flush=True)
    return report(mutations, [results[mutation.digest(root)] for mutation in mutations])


def report(mutations: list[Mutation], results: list[dict]) -> int:
    """Print a table of the mutations with the test that caught each; returns how many survived."""
    width = max((len(mutation.name) for mutation in mutations), default=0)
    print()
    for mutation, result in zip(mutations, results, strict=True):
        outcome = "SURVIVED" if result["survived"] else f"caught by {result['test']}"
        print(f"{mutation.name:{width}}  {outcome}")
    survived = sum(bool(result["survived"]) for result in results)
    share = (len(results) - survived) / max(len(results), 1)
    print(f"{len(results)} mutations, {len(results) - survived} caught ({share:.1%}), {survived} survived")
    return survived


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("texts", nargs="*", help="run mutations with one of these texts in name or file only")
    parser.add_argument("--list", action="store_true", help="print the mutations, run nothing")
    parser.add_argument("--results", type=Path, default=ROOT / "results" / "mutations.jsonl")
    parser.add_argument("--tests-pass", action="store_true", help="do not run the tests without a mutation")
    args = parser.parse_args()
    mutations = [
        mutation
        for mutation in read_table()
        if not args.texts or any(text in mutation.name or text in mutation.file for text in args.texts)
    ]
    if not mutations:
        raise UserError(f"no mutation has one of the texts {', '.join(args.texts)} in its name or file")
    if args.list:
        print("\n".join(f"{mutation.name}  {mutation.file}: {mutation.why}" for mutation in mutations))
        return 0
    return int(check(mutations, args.results, tests_pass=args.tests_pass) > 0)


if __name__ == "__main__":
    run_main(main)
