"""Download and submission with the kaggle client. A mock program on the PATH takes its place.

It prints what the real client (2.2.5 and older ones) prints, and fails in the same ways.
"""

import os
import shutil
import signal
import stat
import subprocess
import sys
import textwrap
import zipfile

import pandas as pd
import pytest

from carpose.core.errors import UserError
from carpose.kaggle.client import explain
from carpose.kaggle.download import download, unpack
from carpose.kaggle.leaderboard import COLUMNS, TEST_PHOTOS, submit
from tests.helpers import ENVIRONMENT, PREDICTED, run_module, write_csv

CLIENT = """\
#!{python}
import csv, os, pathlib, shutil, sys
words, here = sys.argv[1:], pathlib.Path({folder!r})
with open(here / "calls", "a") as calls:
    print(*words, file=calls)
behaviour = (here / "behaviour").read_text() if (here / "behaviour").exists() else ""
assert words[0] == "competitions" and words[2:4] == ["-c", "pku-autonomous-driving"], words
options = dict(zip(words[4::2], words[5::2]))
exec(behaviour)
if words[1] == "download":
    assert set(options) == {{"-p"}}, words
    shutil.copy(here / "data.zip", pathlib.Path(options["-p"]) / "pku-autonomous-driving.zip")
elif words[1] == "submit":
    assert set(options) == {{"-f", "-m"}}, words
    name = pathlib.Path(options["-f"]).name
    with open(here / "sent", "a") as sent:
        csv.writer(sent).writerow([name, "2026-01-02 03:04:05", options["-m"]])
    print("Successfully submitted to Peking University/Baidu - Autonomous Driving")
else:
    assert words[1] == "submissions" and words[4:] == ["--csv"], words
    print("Warning: Looks like you're using an outdated API Version, please consider updating")
    sent = (here / "sent").read_text().splitlines() if (here / "sent").exists() else []
    if sent:
        print("ref,fileName,date,description,status,publicScore,privateScore")
    else:
        print("No submissions found")
    scored = (here / "scored").read_text() if (here / "scored").exists() else "SubmissionStatus.PENDING,,"
    for row in sent[::-1]:
        print(f"123,{{row}},{{scored}}")
"""


class Client:
    """The mock client. `behave`: Python code that it runs before its work."""

    def __init__(self, folder):
        self.folder = folder
        folder.mkdir()
        path = folder / "kaggle"
        path.write_text(CLIENT.format(python=sys.executable, folder=str(folder)))
        path.chmod(path.stat().st_mode | stat.S_IXUSR)

    def behave(self, code):
        (self.folder / "behaviour").write_text(textwrap.dedent(code))

    def score(self, text):
        (self.folder / "scored").write_text(text)

    def calls(self, command):
        lines = (self.folder / "calls").read_text().splitlines()
        return [line for line in lines if line.split()[1] == command]


@pytest.fixture
def client(tmp_path, monkeypatch):
    mock = Client(tmp_path / "client")
    monkeypatch.setenv("PATH", f"{mock.folder}{os.pathsep}{os.environ['PATH']}")
    with zipfile.ZipFile(mock.folder / "data.zip", "w") as archive:
        for name in ("train.csv", "sample_submission.csv", "camera/camera_intrinsic.txt"):
            archive.writestr(name, f"content of {name}\n" * 50)
        for name in ("train_images/ID_a.jpg", "test_images/ID_b.jpg"):
            archive.writestr(name, os.urandom(20_000))
    return mock


def command(*arguments, check=False):
    return run_module(
        "carpose.kaggle", *arguments, check=check, env={**ENVIRONMENT, "PATH": os.environ["PATH"]}
    )


# Download


def test_the_data_are_downloaded_and_unpacked_once(client, tmp_path):
    folder = tmp_path / "data" / "pku"
    done = command("download", folder, "--space", 0.001, check=True)
    assert f"{folder}: downloaded" in done.stdout and f"data_root={folder}" in done.stdout
    with zipfile.ZipFile(client.folder / "data.zip") as archive:
        for name in archive.namelist():
            assert (folder / name).read_bytes() == archive.read(name)
    assert os.listdir(folder.parent) == ["pku"]  # nothing is left beside it
    (folder / "train.csv").write_text("mine")
    assert "were downloaded before" in command("download", folder, check=True).stdout
    assert (folder / "train.csv").read_text() == "mine" and len(client.calls("download")) == 1


def test_a_folder_with_something_else_is_left_alone(client, tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "holiday.jpg").touch()
    with pytest.raises(UserError, match=r"photos: exists, but has no train.csv; name a new or an empty"):
        download(tmp_path / "photos", 0)
    assert os.listdir(tmp_path / "photos") == ["holiday.jpg"] and not (client.folder / "calls").exists()
    (tmp_path / "empty").mkdir()
    download(tmp_path / "empty", 0)
    assert (tmp_path / "empty" / "train.csv").exists()


def test_an_interrupted_download_is_continued(client, tmp_path):
    """The client continues from its own file. A complete archive is not downloaded again."""
    client.behave("""
        target = pathlib.Path(options["-p"]) / "pku-autonomous-driving.zip"
        content = (here / "data.zip").read_bytes()
        if not target.exists():
            target.write_bytes(content[:5000])
            print("HTTPSConnectionPool(host='api.kaggle.com'): Max retries exceeded", file=sys.stderr)
            sys.exit(1)
        assert target.read_bytes() == content[:5000]
        """)
    folder = tmp_path / "pku"
    failed = command("download", folder, "--space", 0.001)
    assert failed.returncode == 2 and "error: Kaggle cannot be reached; check the network" in failed.stderr
    assert not folder.exists()
    command("download", folder, "--space", 0.001, check=True)
    assert (folder / "train.csv").exists() and len(client.calls("download")) == 2


def test_after_a_kill_while_unpacking_it_unpacks_again_without_a_download(client, tmp_path):
    with zipfile.ZipFile(client.folder / "data.zip", "a", zipfile.ZIP_DEFLATED) as archive:
        for number in range(60):
            archive.writestr(f"train_images/ID_{number}.jpg", bytes(5_000_000))
    folder, place = tmp_path / "pku", tmp_path / "pku.download"
    words = [sys.executable, "-m", "carpose.kaggle", "download", str(folder), "--space", "0.001"]
    run = subprocess.Popen(words, env={**ENVIRONMENT, "PATH": os.environ["PATH"]})
    while not (place / "unpacked" / "train_images").exists():
        assert run.poll() is None
    run.send_signal(signal.SIGKILL)
    run.wait()
    assert not folder.exists() and (place / "unpacked").exists()
    (place / "unpacked" / "half").touch()
    command("download", folder, "--space", 0.001, check=True)
    assert len(os.listdir(folder / "train_images")) == 61 and not (folder / "half").exists()
    assert len(client.calls("download")) == 1 and not place.exists()


def test_a_damaged_archive_is_not_unpacked(client, tmp_path):
    content = bytearray((client.folder / "data.zip").read_bytes())
    content[-15_000] ^= 255  # within the last photo
    (tmp_path / "damaged.zip").write_bytes(content)
    with pytest.raises(
        UserError, match=r"damaged.zip: is damaged .*ID_b.jpg.*; it was deleted; run the same"
    ):
        unpack(tmp_path / "damaged.zip", tmp_path / "unpacked")
    assert not (tmp_path / "damaged.zip").exists() and not (tmp_path / "unpacked").exists()


def test_an_incomplete_or_another_archive(client, tmp_path):
    client.behave(
        "print('done'); pathlib.Path(options['-p'], 'pku-autonomous-driving.zip').touch(); sys.exit(0)"
    )
    with pytest.raises(UserError, match="did not download a complete archive; run the same command again"):
        download(tmp_path / "pku", 0)
    client.behave("")
    with zipfile.ZipFile(client.folder / "data.zip", "w") as archive:
        archive.writestr("train.csv", "")
    with pytest.raises(UserError, match="has no sample_submission.csv; is it the archive of pku-auto"):
        download(tmp_path / "pku", 0)
    assert not (tmp_path / "pku").exists()


def test_free_space_is_checked_before_the_download(client, tmp_path, monkeypatch):
    failed = command("download", tmp_path / "pku", "--space", 1e9)
    assert failed.returncode == 2 and "downloading and unpacking take 1000000000.0 GB" in failed.stderr
    assert not (client.folder / "calls").exists()
    usage = shutil.disk_usage(tmp_path)._replace(free=10_000)
    monkeypatch.setattr("carpose.kaggle.download.shutil.disk_usage", lambda path: usage)
    with pytest.raises(UserError, match=r"0.0 GB are free, unpacking takes 0.0 GB; free some space"):
        download(tmp_path / "pku", 0)
    assert not (tmp_path / "pku").exists() and not (tmp_path / "pku.download" / "unpacked").exists()


@pytest.mark.parametrize(
    ("printed", "message"),
    [
        ("Authentication required to call the Kaggle API.\n\nFirst, …", "make a token .* KAGGLE_API_TOKEN"),
        ("OSError: Could not find kaggle.json. Make sure it's located in /home/a/.kaggle", "kaggle.json"),
        ("401 - Unauthorized", "no valid credentials"),
        (
            "403 - Forbidden - You must accept this competition's rules",
            "accept the rules at https://.*/rules",
        ),
        ("403 Client Error: Forbidden for url: https://api.kaggle.com/v1", "accept the rules .*403 Client"),
        (" 50%| 3.0G/6.0G\rOSError: [Errno 28] No space left on device", "the disk is full; free some space"),
        ("Failed to resolve 'api.kaggle.com'", "cannot be reached"),
        ("ModuleNotFoundError: No module named 'six'", "install it anew: pip install kaggle six .*'six'"),
        ("429 Client Error: Too Many Requests", "wait a while"),
        ("first\nsomething new\n", "the kaggle client failed: something new"),
        ("", "the kaggle client failed: exit status 1"),
    ],
)
def test_failures_of_the_client_say_what_to_do(client, tmp_path, printed, message):
    client.behave(f"print({printed!r}); sys.exit(1)")
    with pytest.raises(UserError, match=message):
        download(tmp_path / "pku", 0)
    assert not (tmp_path / "pku").exists() and not (tmp_path / "pku.download").exists()
    assert len(explain(printed + "x" * 5000, 1)) < 600


def test_without_the_client(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="the kaggle client is not installed: pip install kaggle six"):
        download(tmp_path / "pku", 0)


# Submit


@pytest.fixture
def submission(tmp_path):
    rows = [(f"ID_{number:04d}", PREDICTED) for number in range(TEST_PHOTOS)]
    return write_csv(tmp_path / "submission.csv", rows)


def record_of(submission):
    return pd.read_csv(submission.with_name("leaderboard.csv"), dtype=str, keep_default_na=False)


def test_a_submission_is_sent_once_and_its_scores_are_recorded(client, submission):
    sent = command("submit", submission, "--message", 'two, "models"', "--timeout", 0, check=True)
    assert "sent, no score after 0 s" in sent.stdout
    row = record_of(submission).iloc[0]
    assert list(row.index) == COLUMNS and row["message"] == 'two, "models"' and len(row["sha256"]) == 64
    assert (row["status"], row["public"], row["private"]) == ("pending", "", "")
    client.score("SubmissionStatus.COMPLETE,0.12101,0.11502")
    again = command("submit", submission, check=True)
    assert "it is not sent again" in again.stdout and "public 0.12101, private 0.11502" in again.stdout
    row = record_of(submission).iloc[0]
    assert (row["status"], row["public"], row["private"]) == ("complete", "0.12101", "0.11502")
    assert len(record_of(submission)) == len(client.calls("submit")) == 1


def test_scores_are_waited_for(client, submission, capsys):
    client.behave("""
        if words[1] == "submissions" and (here / "sent").exists():
            requests = here / "requests"
            requests.write_text((requests.read_text() if requests.exists() else "") + "x")
            if len(requests.read_text()) == 3:
                (here / "scored").write_text("complete,0.1,")
        """)
    assert submit(submission, "m", submission.with_name("r.csv"), timeout=60, poll_seconds=0.01) == 0
    assert "public 0.1, private –" in capsys.readouterr().out and len(client.calls("submissions")) == 4


def test_a_later_call_fills_in_the_scores_of_all_files(client, submission, tmp_path):
    record = submission.with_name("r.csv")
    submit(submission, "first", record, timeout=0)
    other = tmp_path / "other.csv"
    other.write_text(submission.read_text().replace("0.9", "0.8"))
    client.score("complete,0.2,0.3")
    submit(other, "second", record, timeout=0)
    rows = pd.read_csv(record, dtype=str)
    assert rows["message"].tolist() == ["first", "second"] and rows["public"].tolist() == ["0.2", "0.2"]


def test_after_a_kill_between_sending_and_recording_it_is_not_sent_twice(client, submission):
    record = submission.with_name("r.csv")
    client.score("complete,0.2,0.3")
    submit(submission, "first", record, timeout=0)
    record.unlink()
    submit(submission, "first", record, timeout=0)
    row = pd.read_csv(record, dtype=str).iloc[0]
    assert (row["date"], row["private"]) == ("2026-01-02 03:04:05", "0.3")
    assert len(client.calls("submit")) == 1


def test_an_unscored_file_is_an_error(client, submission):
    client.score("SubmissionStatus.ERROR,,")
    failed = command("submit", submission)
    assert failed.returncode == 1 and "Kaggle could not score it" in failed.stdout
    assert record_of(submission)["status"].tolist() == ["error"]


def test_an_invalid_submission_is_not_sent(client, submission, tmp_path):
    small = write_csv(tmp_path / "demo.csv", [("a", PREDICTED)])
    failed = command("submit", small)
    assert (
        failed.returncode == 2
        and "demo.csv: has rows for 1 photos, the competition has 2021" in failed.stderr
    )
    sample = tmp_path / "sample.csv"
    sample.write_text(submission.read_text().replace("ID_0007", "ID_other"))
    failed = command("submit", submission, "--sample", sample)
    assert failed.returncode == 1 and "image ID_other: the image is missing" in failed.stdout
    submission.write_text(submission.read_text().replace("16.0", "-16", 1))
    failed = command("submit", submission)
    assert failed.returncode == 2 and "a car is not in front of the camera" in failed.stderr
    (tmp_path / "leaderboard.csv").write_text("a,b\n1,2\n")
    submission.write_text(submission.read_text().replace("-16", "16", 1))
    failed = command("submit", submission)
    assert failed.returncode == 2 and "leaderboard.csv: not a table of submissions with" in failed.stderr
    assert not (client.folder / "calls").exists()


def test_a_failed_upload_is_not_recorded(client, submission):
    client.behave("if words[1] == 'submit': print('403 - Forbidden'); sys.exit(1)")
    failed = command("submit", submission)
    assert failed.returncode == 2 and "accept the rules" in failed.stderr
    assert not submission.with_name("leaderboard.csv").exists()
