"""Training by its command line: deterministic, resumable, and stopped by a loss that is not finite."""

import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
import torch

from carpose.config.sections import Running
from carpose.core.version import code_digest
from carpose.network.checkpoint import load_checkpoint
from carpose.train.loop import Log, TrainFiles, read_tables
from carpose.train.validation import validate
from tests.helpers import ENVIRONMENT, options, run_background, run_module


@pytest.fixture(scope="module")
def undisturbed(prepared, tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    events = ("--tensorboard", "true", "--events", folder / "events")
    run_module(*options(prepared, folder, *events))
    return folder


def patched(code, command):
    """The same command after `code` has run, which replaces a function."""
    start = f"import sys; from carpose.train import state, step, __main__; {code}; sys.exit(__main__.main())"
    return [sys.executable, "-c", start, *map(str, command[1:])]


def test_history_and_checkpoint(undisturbed):
    history = pd.read_csv(undisturbed / "history.csv")
    assert list(history.epoch) == [1, 2, 3]
    assert np.isfinite(history[["loss", "heatmap", "offset", "depth", "rotation", "mAP"]]).all(axis=None)
    validation = history[["valid_loss", "valid_heatmap", "valid_depth", "valid_rotation"]]
    assert np.isfinite(validation).all(axis=None)
    _, train_config, provenance = load_checkpoint(undisturbed / "model.pt")
    assert train_config.backbone == "dla34" and provenance["code_digest"] == code_digest()
    assert provenance["code"] and provenance["data"]
    assert provenance["fold"] == 0 and provenance["round"] == "first"
    assert not list(undisturbed.glob("state.pt*"))


def test_the_network_of_the_checkpoint_is_the_one_that_was_validated(prepared, undisturbed):
    """The moving average, not the network that was trained."""
    model, train_config, _ = load_checkpoint(undisturbed / "model.pt")
    last = pd.read_csv(undisturbed / "history.csv").iloc[-1]
    files = TrainFiles(
        *(prepared / name for name in ("cache", "images.parquet", "labels.parquet", "folds.parquet")),
        *(undisturbed / name for name in ("model.pt", "history.csv", "state.pt")),
    )
    tables = read_tables(files, 0)
    truth, cpu = tables.truth(), torch.device("cpu")
    values = validate(model, train_config, files.cache, tables.valid_ids, truth, cpu, Running())
    for name, value in values.items():
        assert value == pytest.approx(last[name], rel=1e-4), name


def test_tensorboard_has_the_history(undisturbed):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(undisturbed / "events"))
    events.Reload()
    history = pd.read_csv(undisturbed / "history.csv")
    assert [event.step for event in events.Scalars("depth")] == [1, 2, 3]
    np.testing.assert_allclose([event.value for event in events.Scalars("depth")], history.depth, rtol=1e-6)


@pytest.mark.slow
def test_a_training_killed_at_random_ends_bit_identical(prepared, undisturbed, tmp_path):
    """SIGKILL at random moments, with a state written after nearly every step."""
    random.seed(4)
    command = [sys.executable, "-m", *map(str, options(prepared, tmp_path, "--save-minutes", 0.0001))]
    kills, path = 0, tmp_path / "state.pt"
    for _ in range(3):
        waited = random.uniform(0.1, 1.5)
        before = path.stat().st_mtime_ns if path.exists() else 0
        process = subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.DEVNULL)
        while process.poll() is None and not (path.exists() and path.stat().st_mtime_ns > before):
            time.sleep(0.02)
        time.sleep(waited)
        if process.poll() is None:
            process.kill()
            kills += 1
        process.wait()
    assert kills, "the training ended before it could be killed"
    subprocess.run(command, env=ENVIRONMENT, check=True, capture_output=True)
    assert (tmp_path / "model.pt").read_bytes() == (undisturbed / "model.pt").read_bytes()


@pytest.mark.parametrize("workers", [0, 2])
def test_sigterm_saves_the_state_and_stops(prepared, undisturbed, tmp_path, workers):
    """SIGTERM to the process group, as Slurm and torchrun send it."""
    command = options(prepared, tmp_path, "--workers", workers)
    process = run_background(command, start_new_session=True)
    while "epoch 1/3" not in process.stdout.readline():
        assert process.poll() is None
    os.killpg(process.pid, signal.SIGTERM)
    assert process.wait(60) == 143
    assert (tmp_path / "state.pt").exists() and not (tmp_path / "model.pt").exists()
    assert "going on at epoch" in run_module(*command).stdout
    assert (tmp_path / "model.pt").read_bytes() == (undisturbed / "model.pt").read_bytes()


def test_it_stops_at_its_time_and_goes_on(prepared, undisturbed, tmp_path):
    """In minutes from its start, or at a Unix time, which is that of the whole run."""
    command = options(prepared, tmp_path)
    for limit in (("--stop-after-minutes", 0.0001), ("--stop-at", 1)):
        done = run_module(*command, *limit, check=False)
        assert done.returncode == 143 and not (tmp_path / "model.pt").exists()
        message = "stopped at the time that was asked for; the state is saved, the same command resumes"
        assert message in done.stdout and (tmp_path / "state.pt").exists()
    assert "going on at epoch 1, batch 2" in run_module(*command).stdout
    assert (tmp_path / "model.pt").read_bytes() == (undisturbed / "model.pt").read_bytes()


def test_a_second_training_of_the_same_state_waits(prepared, undisturbed, tmp_path):
    """As after a kill of Snakemake: it waits for the orphaned training, then resumes from its state."""
    command = options(prepared, tmp_path)
    orphan = run_background(command)
    while "epoch 1/3" not in orphan.stdout.readline():
        assert orphan.poll() is None
    orphan.send_signal(signal.SIGSTOP)
    second = run_background(command, stderr=subprocess.PIPE)
    assert "another training uses this state" in second.stderr.readline()
    assert second.poll() is None and not (tmp_path / "model.pt").exists()
    orphan.kill()
    orphan.wait()
    assert "going on at epoch" in second.communicate(timeout=120)[0]
    assert second.returncode == 0
    assert (tmp_path / "model.pt").read_bytes() == (undisturbed / "model.pt").read_bytes()
    assert not list(tmp_path.glob("state.pt*"))


def test_infinite_loss_stops_and_names_the_photos(prepared, tmp_path):
    infinite = ("--loss-weights", "heatmap=1e39")  # in float32
    done = run_module(*options(prepared, tmp_path, *infinite), check=False)
    assert done.returncode == 2
    assert "loss is not finite" in done.stderr and "epoch" in done.stderr and "ID_" in done.stderr
    assert "on_nan: rollback" in done.stderr
    assert not (tmp_path / "model.pt").exists()


@pytest.mark.parametrize(
    "invalid, message",
    [
        (("--batch-size", 0), "batch_size: invalid value 0; it must be at least 1"),
        (("--lr", "nan", "--radius", 0), "lr: invalid value nan; it must be a finite number"),
        (("--input-width", 33), "input_width: invalid value 33"),
        (("--crop", 1, 1, 0, 0), "crop: invalid value [1.0, 1.0, 0.0, 0.0]; expected: left top right bottom"),
        (("--fold", -1), "argument --fold: invalid value '-1'; use an integer of at least 0"),
        (("--state", "."), ".: is a folder; name a file"),
    ],
)
def test_invalid_options_are_errors_before_the_training(prepared, tmp_path, invalid, message):
    done = run_module(*options(prepared, tmp_path, *invalid), check=False, cwd=tmp_path)
    assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("second", "epoch", "factors"),
    [
        (lambda steps: 2 * steps + 3, 3, [1, 0.5, 0.25]),  # the second step of epoch 3
        (lambda steps: steps + 3, 2, [1, 0.25, 0.25]),  # that of epoch 2 again: no state since the first time
    ],
    ids=["state after the first rollback", "state before it"],
)
def test_each_rollback_halves_the_learning_rate(prepared, undisturbed, tmp_path, second, epoch, factors):
    """Also if the restored state was saved before or after an earlier rollback."""
    folds = pd.read_parquet(prepared / "folds.parquet")
    steps = int((folds.fold != 0).sum()) // 2
    # Counted over all steps, from 0: first the second of epoch 2.
    broken = [steps + 1, second(steps)]
    code = (
        "import itertools; number = itertools.count(); "
        f"step.Training.is_broken = lambda self, values: next(number) in {broken}"
    )
    command = patched(code, options(prepared, tmp_path, "--on-nan", "rollback"))
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=True)
    assert "back to epoch 2 with 0.5 times the learning rate" in done.stdout
    assert f"back to epoch {epoch} with 0.25 times the learning rate" in done.stdout
    usual, halved = (pd.read_csv(folder / "history.csv").lr for folder in (undisturbed, tmp_path))
    np.testing.assert_allclose(halved / usual, factors)


@pytest.mark.slow
def test_a_later_round_uses_pseudo_labels_and_starts_warm(prepared, undisturbed, tmp_path):
    images = pd.read_parquet(prepared / "images.parquet")
    labels = pd.read_parquet(prepared / "labels.parquet")
    tests = images.ImageId[images.split == "test"].tolist()
    pseudo = labels.head(40).assign(fold=0, weight=0.7, depth_sigma=0.05, score=0.8, role="positive")
    pseudo["ImageId"] = [tests[row % len(tests)] for row in range(len(pseudo))]
    pseudo.to_parquet(tmp_path / "pseudo.parquet")
    start = ("--start-weights", undisturbed / "model.pt")
    models = {}
    for name, more in (
        ("warm", ("--start", "warm", *start)),
        ("scratch", ("--start", "scratch", *start)),
        ("new", ()),
    ):
        (tmp_path / name).mkdir()
        more = (*more, "--pseudo", tmp_path / "pseudo.parquet", "--epochs", 1, "--validate-every", 0)
        run_module(*options(prepared, tmp_path / name, *more))
        content = torch.load(tmp_path / name / "model.pt", weights_only=True)
        assert content["provenance"]["round"] == "later"
        models[name] = content["weights"]
    assert all(torch.equal(models["scratch"][name], value) for name, value in models["new"].items())
    assert any(not torch.equal(models["warm"][name], value) for name, value in models["new"].items())


def test_start_weights_of_another_network_are_refused(prepared, undisturbed, tmp_path):
    more = ("--start-weights", undisturbed / "model.pt", "--width", 0.25)
    done = run_module(*options(prepared, tmp_path, *more), check=False)
    assert done.returncode == 2 and "model.pt: has another network" in done.stderr
    assert "start: scratch" in done.stderr


def test_start_weights_of_another_fold_are_refused(prepared, undisturbed, tmp_path):
    """They were trained on the photos that this training validates on."""
    more = ("--start-weights", undisturbed / "model.pt", "--fold", 1)
    done = run_module(*options(prepared, tmp_path, *more), check=False)
    assert (
        done.returncode == 2
        and "model.pt: is the model of fold 0, but that of fold 1 is needed" in done.stderr
    )
    assert not list(tmp_path.glob("*.pt"))


def test_a_loss_that_dominates_the_others_is_named(capsys):
    row = {"epoch": 1, "loss": 1.0, "heatmap": 0.5, "offset": 0.1, "rotation": 0.04, "seconds": 45.0}
    loss_weights = {"heatmap": 2.0, "offset": 4.0, "rotation": 30.0}
    Log("round0").epoch([row], 3, loss_weights)
    losses = "loss 1  heatmap 0.5  offset 0.1  rotation 0.04  seconds 45"
    assert capsys.readouterr().out == f"[round0] epoch 1/3  2 min left  {losses}\n"
    Log("round0").epoch([row | {"rotation": -1.0}], 3, loss_weights)
    warning = (
        "the weighted rotation loss is more than 10 times the sum of all others; lower loss_weights.rotation"
    )
    assert warning in capsys.readouterr().out
