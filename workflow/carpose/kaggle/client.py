"""The official `kaggle` client, called as a program; where it fails, one message says what to do."""

import csv
import io
import re
import shutil
import subprocess
import sys

from carpose.core.errors import UserError

COMPETITION = "pku-autonomous-driving"
PAGE = f"https://www.kaggle.com/c/{COMPETITION}"
INSTALL = "pip install kaggle six (also into an environment of its own; it must be on the PATH)"
# What the client prints when it fails, old clients and new, and what that means.
FAILURES = {
    r"No module named|ImportError": f"the kaggle client cannot start; install it anew: {INSTALL}",
    r"Authentication required|Could not find kaggle\.json|Missing (username|key)|\b401\b|Unauthorized": (
        "no valid credentials for Kaggle; make a token at https://www.kaggle.com/settings/api and set"
        " KAGGLE_API_TOKEN or write it to ~/.kaggle/access_token (older clients: KAGGLE_USERNAME and"
        " KAGGLE_KEY, or ~/.kaggle/kaggle.json)"
    ),
    r"\b403\b|Forbidden|[Aa]ccept.*rules": (
        f"Kaggle does not allow it; log in, accept the rules at {PAGE}/rules (with Late Submission, where it"
        " is closed), and verify the account's phone number"
    ),
    r"\b429\b|Too Many Requests": "too many requests; wait a while, then the same command again",
    r"No space left": "the disk is full; make room, then the same command goes on",
    r"resolve|Max retries|Connection|[Tt]imed out": "Kaggle cannot be reached; is there a network here?",
}


def call(command: str, *arguments: str, shown: bool = True) -> str:
    """Run `kaggle competitions COMMAND -c … ARGUMENTS` → all that it printed.

    shown: pass that on to stderr as it comes. Raises UserError where the client is missing or fails.
    """
    program = shutil.which("kaggle")
    if not program:
        raise UserError(f"the kaggle client is not installed: {INSTALL}")
    command = [program, "competitions", command, "-c", COMPETITION, *arguments]
    output = b""
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        for chunk in iter(lambda: process.stdout.read1(65536), b""):
            output += chunk
            if shown:
                sys.stderr.buffer.write(chunk)
                sys.stderr.flush()
    text = output.decode(errors="replace")
    if process.returncode:
        raise UserError(explain(text, process.returncode))
    return text


def explain(text: str, status: int) -> str:
    """What a failed call means, and the line that tells. status: of its exit, negative for a signal."""
    lines = [line.strip() for line in text.splitlines() if line.strip()] or [f"exit status {status}"]
    for pattern, meaning in FAILURES.items():
        for line in lines:
            if re.search(pattern, line):
                return f"{meaning} (kaggle: {line[:200]})"
    return f"the kaggle client failed: {lines[-1][:200]}; the same command goes on"


def submissions() -> list[dict[str, str]]:
    """The latest, newest first: fileName, date, description, status, publicScore, privateScore."""
    text = call("submissions", "--csv", shown=False)
    header = re.search(r"^.*\bfileName,.*$", text, re.M)  # warnings may stand above it
    if not header:
        return []
    rows = csv.DictReader(io.StringIO(text[header.start() :], newline=""))
    return [row for row in rows if None not in row.values()]
