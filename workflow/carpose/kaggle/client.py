"""The official `kaggle` client, called as a program. If it fails, the error says what to do."""

import csv
import io
import re
import shutil
import subprocess
import sys
from typing import cast

from carpose.core.errors import UserError

COMPETITION = "pku-autonomous-driving"
PAGE = f"https://www.kaggle.com/c/{COMPETITION}"
INSTALL = "pip install kaggle six (in any environment; the program must be on the PATH)"
# Patterns of what the client, old or new, prints when it fails → message for the user.
FAILURES = {
    r"No module named|ImportError": f"the kaggle client cannot start; install it anew: {INSTALL}",
    r"Authentication required|Could not find kaggle\.json|Missing (username|key)|\b401\b|Unauthorized": (
        "no valid credentials for Kaggle; make a token at https://www.kaggle.com/settings/api and set"
        " KAGGLE_API_TOKEN or write it to ~/.kaggle/access_token (older clients: KAGGLE_USERNAME and"
        " KAGGLE_KEY, or ~/.kaggle/kaggle.json)"
    ),
    r"\b403\b|Forbidden|[Aa]ccept.*rules": (
        f"Kaggle does not allow it; log in, accept the rules at {PAGE}/rules (through Late Submission, if the"
        " competition is closed), and verify the account's phone number"
    ),
    r"\b429\b|Too Many Requests": "too many requests; wait a while, then run the same command again",
    r"No space left": "the disk is full; free some space, then run the same command again",
    r"resolve|Max retries|Connection|[Tt]imed out": "Kaggle cannot be reached; check the network connection",
}


def call(command: str, *arguments: str, shown: bool = True) -> str:
    """Run `kaggle competitions COMMAND -c … ARGUMENTS` and return its output.

    shown: also print the output to stderr as it comes. Raises UserError where the client is missing or fails.
    """
    program = shutil.which("kaggle")
    if not program:
        raise UserError(f"the kaggle client is not installed: {INSTALL}")
    command_line = [program, "competitions", command, "-c", COMPETITION, *arguments]
    output = b""
    with subprocess.Popen(command_line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        stdout = cast(io.BufferedReader, process.stdout)
        for chunk in iter(lambda: stdout.read1(65536), b""):
            output += chunk
            if shown:
                sys.stderr.buffer.write(chunk)
                sys.stderr.flush()
    text = output.decode(errors="replace")
    if process.returncode:
        raise UserError(explain(text, process.returncode))
    return text


def explain(text: str, status: int) -> str:
    """The message for a failed call: its cause, what to do, and the line of the output that shows it.

    text: the output; status: the exit status, negative for a signal.
    """
    lines = [line.strip() for line in text.splitlines() if line.strip()] or [f"exit status {status}"]
    for pattern, meaning in FAILURES.items():
        for line in lines:
            if re.search(pattern, line):
                return f"{meaning} (kaggle: {line[:200]})"
    return f"the kaggle client failed: {lines[-1][:200]}; run the same command again"


def submissions() -> list[dict[str, str]]:
    """The latest submissions on Kaggle, newest first, each with fileName, date, description, status,
    publicScore and privateScore."""
    text = call("submissions", "--csv", shown=False)
    header = re.search(r"^.*\bfileName,.*$", text, re.M)  # warnings may stand above it
    if not header:
        return []
    rows = csv.DictReader(io.StringIO(text[header.start() :], newline=""))
    return [row for row in rows if None not in row.values()]
