"""Programs report the faults of a machine in one line, and write UTF-8 in any locale."""

import ast
import errno
import fcntl
import subprocess
import sys

import pytest

from carpose.core.files import write_text
from tests.helpers import ENVIRONMENT, REPOSITORY, run_module

LATIN = ENVIRONMENT | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
PROGRAM = """
from carpose.core.files import run_main
{imports}
def main():
    {body}
if __name__ == "__main__":
    run_main(main)
"""


def run(body: str, imports: str = "") -> subprocess.CompletedProcess:
    program = PROGRAM.format(body=body, imports=imports)
    return subprocess.run([sys.executable, "-c", program], env=LATIN, capture_output=True, text=True)


@pytest.mark.parametrize("encoding", ["latin-1", "ascii"])
@pytest.mark.parametrize("module", ["carpose.metric", "carpose.fuse", "carpose.config"])
def test_help_in_any_locale(module, encoding):
    done = run_module(module, "--help", env=LATIN | {"PYTHONIOENCODING": encoding}, encoding=encoding)
    assert "usage: " in done.stdout


def test_messages_in_any_locale():
    done = run(
        r"print('a \u2026'); print('\u03c3', file=sys.stderr); raise UserError('\u2264')",
        "import sys\nfrom carpose.core.errors import UserError",
    )
    assert done.returncode == 2 and done.stdout == "a \\u2026\n"
    assert done.stderr == "\\u03c3\nerror: \\u2264\n"


def test_text_files_are_utf_8_in_any_locale(tmp_path):
    done = run(
        f"write_text({str(tmp_path / 'a.txt')!r}, '\\u00b1\\u03c0')",
        "from carpose.core.files import write_text",
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "a.txt").read_bytes() == "±π".encode()


def test_temporary_file_of_a_killed_writer_is_deleted_by_the_next(tmp_path):
    """And not that of one that still writes, nor files of other names."""
    hold = (
        "import sys, time\nfrom carpose.core.files import atomic\n"
        "with atomic(sys.argv[1]) as file:\n"
        "    file.write_text('half')\n    print(flush=True)\n    time.sleep(600)"
    )

    def writer():
        command = [sys.executable, "-c", hold, str(tmp_path / "a [1].pt")]
        process = subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE)
        process.stdout.readline()
        return process

    def names():
        return {file.name for file in tmp_path.iterdir()}

    others = {".a [1].note.pt", ".b.1.pt", ".a [1].1.npy"}
    for name in others:
        (tmp_path / name).touch()
    killed, writing = writer(), writer()
    killed.kill()
    killed.wait()
    try:
        write_text(tmp_path / "a [1].pt", "whole")
        assert names() == {"a [1].pt", f".a [1].{writing.pid}.pt"} | others
    finally:
        writing.kill()
        writing.wait()
    write_text(tmp_path / "a [1].pt", "whole")
    assert names() == {"a [1].pt"} | others


def test_without_locks_no_temporary_file_is_taken_for_abandoned(tmp_path, monkeypatch, capsys):
    def flock(handle, operation):
        raise OSError(errno.ENOSYS, "no locks")

    monkeypatch.setattr(fcntl, "flock", flock)
    (tmp_path / ".a.1.txt").touch()
    write_text(tmp_path / "a.txt", "whole")
    assert {file.name for file in tmp_path.iterdir()} == {"a.txt", ".a.1.txt"}
    assert capsys.readouterr().err == ""


def test_every_text_file_has_an_encoding():
    """As ruff's PLW1514, which misses paths whose type it does not know."""
    missing = []
    for folder in ("workflow", "models", "benchmarks"):
        for path in (REPOSITORY / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                    positional = {"read_text": 1, "write_text": 2}.get(node.func.attr)
                    named = any(keyword.arg == "encoding" for keyword in node.keywords)
                    if positional and len(node.args) < positional and not named:
                        missing.append(f"{path}:{node.lineno}")
    assert not missing


@pytest.mark.parametrize(
    ("body", "imports"),
    [
        (
            "list(ProcessPoolExecutor(1).map(os._exit, [9]))",
            "import os\nfrom concurrent.futures import ProcessPoolExecutor",
        ),
        ("raise RuntimeError('DataLoader worker (pid 7) is killed by signal: Killed. ')", ""),
        ("raise RuntimeError('DataLoader worker (pid(s) 7) exited unexpectedly')", ""),
    ],
)
def test_a_killed_worker_is_one_line(body, imports):
    done = run(body, imports)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: a worker process was killed or crashed, probably")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("raise MemoryError('Unable to allocate 9 GiB')", "too little memory (Unable to allocate 9 GiB); "),
        ("import os; raise OSError(12, os.strerror(12))", "Cannot allocate memory; "),
        ("import os; raise OSError(24, os.strerror(24), 'x')", "x: Too many open files; "),
    ],
)
def test_too_little_memory_is_one_line(body, message):
    done = run(body)
    assert (
        done.returncode == 2 and done.stderr.startswith(f"error: {message}") and done.stderr.count("\n") == 1
    )


def test_other_errors_keep_their_traceback():
    assert "Traceback" in run("raise RuntimeError('shape mismatch')").stderr


def test_write_text_is_utf_8(tmp_path):
    write_text(tmp_path / "a.txt", "±π")
    assert (tmp_path / "a.txt").read_text(encoding="utf-8") == "±π"
