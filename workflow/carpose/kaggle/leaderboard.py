"""A submission → the leaderboard, with the kaggle client, and its scores → a table beside the run.

Every submission's description on Kaggle ends with the digest of its file. By that it is found again, whatever
happens between sending and scoring, and the same file is not sent twice.
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
DIGITS = 16  # of the digest, in the description


def submit(file: Path, message: str, record: Path, timeout: float, every: float = 10) -> int:
    """Send `file` unless that was done, wait for its scores up to `timeout` seconds, record both.

    record: CSV of COLUMNS, a row per submission; scores that were missing in other rows are filled in too.
    Returns the exit status: 1 where Kaggle could not score the file.
    """
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    rows = read_record(record)
    update(rows, listed := submissions())
    row = next((row for row in rows if row["sha256"] == digest), None)
    on_kaggle = of_digest(listed, digest)
    if not row and not on_kaggle:
        call("submit", "-f", str(file), "-m", f"{message} [sha256 {digest[:DIGITS]}]")
    else:
        print(f"{file}: was sent on {(row or on_kaggle)['date']}; it is not sent again")
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
        time.sleep(min(every, max(end - time.monotonic(), 0)))
    if row["status"] == "error":
        print(f"{file}: Kaggle could not score it, {PAGE}/submissions says why; send a corrected file")
        return 1
    if row["status"] == "complete":
        print(f"{file}: public {row['public'] or '–'}, private {row['private'] or '–'}; in {record}")
    else:
        print(f"{file}: sent, no score after {timeout:g} s; the same command asks again and sends nothing")
    return 0


def of_digest(listed: list[dict[str, str]], digest: str) -> dict[str, str] | None:
    """The newest submission of a file, as Kaggle lists it."""
    return next((row for row in listed if digest[:DIGITS] in row["description"]), None)


def update(rows: list[dict[str, str]], listed: list[dict[str, str]]) -> None:
    """Status (pending, complete or error) and scores, in place, of every file that Kaggle lists."""
    for row in rows:
        if entry := of_digest(listed, row["sha256"]):
            row["status"] = entry["status"].rpartition(".")[2].lower()  # or SubmissionStatus.COMPLETE
            row["public"] = entry["publicScore"] or row["public"]
            row["private"] = entry["privateScore"] or row["private"]


def read_record(path: Path) -> list[dict[str, str]]:
    """The rows of a record, none where there is no file. Raises UserError where it is another table."""
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except FileNotFoundError:
        return []
    except ValueError as error:
        raise UserError(f"{path}: not a table of submissions ({error}); move it away") from error
    if list(table) != COLUMNS:
        raise UserError(
            f"{path}: not a table of submissions, whose columns are {','.join(COLUMNS)}; move it away"
        )
    return table.to_dict("records")


def write_record(path: Path, rows: list[dict[str, str]]) -> None:
    write_text(path, pd.DataFrame(rows, columns=COLUMNS).to_csv(index=False))
