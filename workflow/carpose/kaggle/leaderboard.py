"""Sends a submission to the leaderboard with the kaggle client and records its scores in a CSV.

Every submission's description on Kaggle ends with the digest of its file. A later call finds it there even if
this process is killed, so that a file is never sent twice.
"""

import hashlib
import time
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd

from carpose.core.errors import UserError
from carpose.core.files import write_text

from .client import PAGE, call, submissions

COLUMNS = ["date", "file", "sha256", "message", "status", "public", "private"]
TEST_PHOTOS = 2021
DIGITS = 16  # of the digest in the description


def submit(file: Path, message: str, record: Path, timeout: float, poll_seconds: float = 10) -> int:
    """Send `file` unless it was sent before, wait up to `timeout` seconds for its scores, and record them.

    message: description on Kaggle; record: CSV of COLUMNS with a row per submission, of which missing scores
    are filled in; poll_seconds: between two requests. Returns the exit status: 1 if Kaggle could not score
    the file. Raises UserError where the client fails or the record is another table.
    """
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    rows = read_record(record)
    update(rows, listed := submissions())
    row = next((row for row in rows if row["sha256"] == digest), None)
    on_kaggle = find_by_digest(listed, digest)
    if sent := row or on_kaggle:
        print(f"{file}: was sent on {sent['date']}; it is not sent again")
    else:
        call("submit", "-f", str(file), "-m", f"{message} [sha256 {digest[:DIGITS]}]")
    if not row:
        date = on_kaggle["date"] if on_kaggle else f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S}"
        row = dict(zip(COLUMNS, [date, str(file), digest, message, "sent", "", ""], strict=True))
        rows.append(row)
    write_record(record, rows)

    end = time.monotonic() + timeout
    while True:
        update(rows, submissions())
        write_record(record, rows)
        if row["status"] in ("complete", "error") or time.monotonic() >= end:
            break
        time.sleep(min(poll_seconds, max(end - time.monotonic(), 0)))
    if row["status"] == "error":
        print(
            f"{file}: Kaggle could not score it; see {PAGE}/submissions for the reason, send a corrected file"
        )
        return 1
    if row["status"] == "complete":
        print(f"{file}: public {row['public'] or '–'}, private {row['private'] or '–'}; in {record}")
    else:
        advice = "run the same command again to ask for it; nothing is sent twice"
        print(f"{file}: sent, no score after {timeout:g} s; {advice}")
    return 0


def find_by_digest(listed: list[dict[str, str]], digest: str) -> dict[str, str] | None:
    """The newest of the submissions that Kaggle lists for the file of this digest; None if there is none."""
    return next((row for row in listed if digest[:DIGITS] in row["description"]), None)


def update(rows: list[dict[str, str]], listed: list[dict[str, str]]) -> None:
    """Set status (pending, complete or error) and scores of the rows from Kaggle's list, in place."""
    for row in rows:
        if entry := find_by_digest(listed, row["sha256"]):
            row["status"] = (
                entry["status"].rpartition(".")[2].lower()
            )  # SubmissionStatus.COMPLETE or complete
            row["public"] = entry["publicScore"] or row["public"]
            row["private"] = entry["privateScore"] or row["private"]


def read_record(path: Path) -> list[dict[str, str]]:
    """The rows of a record; [] where there is no file. Raises UserError where the file is another table."""
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except FileNotFoundError:
        return []
    except ValueError as error:
        raise UserError(f"{path}: not a table of submissions ({error}); move the file away") from error
    if list(table) != COLUMNS:
        raise UserError(
            f"{path}: not a table of submissions with the columns {','.join(COLUMNS)}; move the file away"
        )
    return table.to_dict("records")


def write_record(path: Path, rows: list[dict[str, str]]) -> None:
    """Write a record as `read_record` reads it."""
    write_text(path, pd.DataFrame(rows, columns=COLUMNS).to_csv(index=False))
