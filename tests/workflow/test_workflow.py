"""The DAG: dry runs, one end-to-end run on the tiny configuration, and what a change reruns."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time

import pandas as pd
import pytest
import yaml

from carpose.core.errors import UserError
from carpose.forecast.jobs import forecast, planned_jobs
from carpose.kaggle.submission import validate
from carpose.kaggle.tables import read_sample, read_submission
from tests.helpers import CI, REPOSITORY, jobs, run_module, snakemake


def test_dry_run_of_45_trainings_imports_no_torch(tmp_path, monkeypatch):
    """3 backbones × 5 folds × 3 rounds; what takes seconds to import is not there to be imported."""
    for name in ("torch", "timm"):
        (tmp_path / f"{name}.py").write_text("raise ImportError('a plan needs no networks')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    text = snakemake(tmp_path, "-n", "submission", "--config", "rounds=3", 'folds={"count": 5}')
    assert jobs(text)["train"] == "45" and jobs(text)["predict"] == "9"


@pytest.mark.parametrize(
    "target, expected",
    [
        ("demo_data", {"demo_data"}),
        ("data_check", {"demo_data", "check_data"}),
        ("trained", {"train", "split_folds", "build_cache"}),
        ("predictions", {"predict", "make_pseudo_labels"}),
        ("pseudo_labels", {"make_pseudo_labels", "predict"}),
        ("retrained", {"train", "make_pseudo_labels"}),
        ("evaluation", {"evaluate", "fit_fusion", "fuse"}),
        ("analysis", {"analyse_errors", "measure_receptive_fields", "fit_fusion"}),
        ("submission", {"write_submission", "draw"}),
    ],
)
def test_every_stage_has_a_target(tmp_path, target, expected):
    assert expected <= set(jobs(snakemake(tmp_path, "-n", target, *CI)))


def test_names_with_spaces_and_quotes_reach_the_programs_whole(tmp_path):
    data, weights = "my data's", "my weights $HOME.pth"
    (tmp_path / data / "camera").mkdir(parents=True)
    for name in ("train.csv", "sample_submission.csv", "camera/camera_intrinsic.txt"):
        (tmp_path / data / name).touch()
    (tmp_path / weights).touch()
    own = {
        "data_root": data,
        "exclude": {"images": {"ID_a": "it's {broken}; really"}},
        "models": {"hourglass": {"backbone": "hourglass", "pretrained": weights}},
    }
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(own))
    text = snakemake(tmp_path, "-n", "-p", "submission", "analysis", *CI, str(tmp_path / "own.yaml"))
    commands = [line.partition("python -m ")[2] for line in text.splitlines() if "python -m " in line]
    words = {}
    for command in commands:
        words.setdefault(command.split()[0], set()).update(shlex.split(command))
    for module in ("kaggle", "data", "plots", "analysis"):
        assert data in words[f"carpose.{module}"], module
    assert "ID_a=it's {broken}; really" in words["carpose.kaggle"]
    assert weights in words["carpose.train"]


def test_settings_of_the_prediction_reach_it(tmp_path):
    """As its own --help names them; numbers as argparse reads them, negative and small ones too."""
    own = 'predict={"tta_rotations_deg": [[0, 0.5, -2], [0, -2.0e-5, 0]], "flip": true}'
    text = snakemake(tmp_path, "-n", "-p", "predictions", *CI, "--config", own)
    command = next(line for line in text.splitlines() if "-m carpose.predict" in line)
    views = "--tta-rotations-deg 0.0 0.5 -2.0 --tta-rotations-deg 0.0 -0.00002 0.0"
    assert views in command and "--flip true" in command
    text = snakemake(
        tmp_path, "-n", "-p", "predictions", *CI, "--config", 'predict={"tta_rotations_deg": []}'
    )
    assert "tta-rotations" not in text


def test_trained_is_round_zero_alone(tmp_path):
    text = snakemake(tmp_path, "-n", "trained", *CI)
    assert jobs(text)["train"] == "4" and "make_pseudo_labels" not in jobs(text)


def test_targets_are_described(tmp_path):
    listing = snakemake(tmp_path, "--list-target-rules")
    for target in [
        "demo_data",
        "data_check",
        "trained",
        "predictions",
        "pseudo_labels",
        "retrained",
        "evaluation",
        "submission",
        "analysis",
        "weights",
        "download_data",
        "submit",
    ]:
        assert re.search(rf"^{target} \(.{{20,}}\)", listing, re.M), target


def test_configuration_for_the_real_data_is_valid(finished, tmp_path):
    overlay = str(REPOSITORY / "configs" / "pku.yaml")
    data = finished / "results" / "ci" / "demo"
    text = snakemake(tmp_path, "-n", "--configfile", overlay, "--config", f"data_root={data}")
    assert jobs(text)["train"] == "30", "three backbones, five folds, two rounds"
    assert "demo_data" not in jobs(text)


def test_bad_configuration_stops_at_once(tmp_path):
    text = snakemake(tmp_path, "-n", "submission", "--config", "rouds=3", check=False)
    assert "rouds: unknown key; did you mean rounds?" in text


def test_a_key_twice_stops_at_once(tmp_path):
    """Of a file, of the command line, of a file of the studies."""
    own = tmp_path / "own.yaml"
    own.write_text("rounds: 1\ntrain:\n  lr: 0.1\n  lr: 0.2\n")
    text = snakemake(tmp_path, "-n", "submission", "--configfile", str(own), check=False)
    assert f"{own}, line 4: the key lr occurs twice, first in line 3; keep one of them" in text
    for workflow in ("Snakefile", "workflow/studies.smk"):
        twice = ("--config", "rounds=1", "data_root=", 'train={"lr": 0.1, "lr": 0.2}')
        text = snakemake(tmp_path, "-n", *twice, workflow=workflow, check=False)
        assert "--config train, line 1: the key lr occurs twice" in text, workflow


def test_missing_data_folder_stops_at_once(tmp_path):
    text = snakemake(tmp_path, "-n", "submission", "--config", "data_root=/nowhere", check=False)
    assert "there is no /nowhere/train.csv" in text


def test_nothing_is_fetched_or_sent_unless_that_is_asked_for(tmp_path):
    data = tmp_path / "data"
    options = (*CI, "--config", f"data_root={data}")
    fetched = snakemake(tmp_path, "-n", "-p", "download_data", *options)
    assert f"carpose.kaggle download {data} " in fetched
    assert jobs(fetched) == {"download_data": "1"}  # into a folder that is not there yet
    text = snakemake(tmp_path, "-n", "submission", *options, check=False)
    assert "data_root: there is no" in text and "snakemake download_data" in text
    (data / "camera").mkdir(parents=True)
    for name in ("train.csv", "sample_submission.csv", "camera/camera_intrinsic.txt"):
        (data / name).touch()
    planned = jobs(snakemake(tmp_path, "-n", "submission", "analysis", *options))
    assert "write_submission" in planned and not {"submit", "download_data"} & set(planned)
    sent = snakemake(tmp_path, "-n", "-p", "submit", *options)
    assert jobs(sent)["submit"] == jobs(sent)["write_submission"] == "1"
    files = "results/ci/submission.csv --images results/ci/data/images.parquet"
    assert f"carpose.kaggle submit {files} --record results/ci/leaderboard.csv" in sent
    for target in ("submit", "download_data"):  # of the demo there is nothing to send or to fetch
        text = snakemake(tmp_path, "-n", target, *CI, check=False)
        assert "data_root is empty, which means the demo data; name a folder" in text


def test_findings_survive_a_failed_check(finished, tmp_path):
    """A label that does not parse stops the run, and the table says where it is."""
    data = tmp_path / "data"
    shutil.copytree(finished / "results" / "ci" / "demo", data)
    lines = (data / "train.csv").read_text().splitlines()
    image_id, _, poses = lines[1].partition(",")
    (data / "train.csv").write_text("\n".join([lines[0], f"{image_id},{poses} 1 2 three", *lines[2:]]))
    text = snakemake(tmp_path, "data_check", *CI, "--config", f"data_root={data}", check=False)
    assert image_id in text
    findings = pd.read_csv(tmp_path / "results" / "ci" / "data" / "findings.csv")
    assert ((findings["severity"] == "error") & (findings["ImageId"] == image_id)).any()
    assert not (tmp_path / "results" / "ci" / "data" / "labels.parquet").exists()


def test_run_ends_with_a_valid_submission(finished):
    results = finished / "results" / "ci"
    fused = pd.read_parquet(results / "fused_test.parquet")
    image_ids = read_sample(results / "demo" / "sample_submission.csv")
    for name, expected in (
        ("submission", fused),
        ("submission_thresholded", fused[fused["above_threshold"]]),
    ):
        assert validate(results / f"{name}.csv", image_ids)[0] == []
        assert len(read_submission(results / f"{name}.csv")[0]) == len(expected)
    table = pd.read_csv(results / "evaluation.csv")
    names = {f"round{r}/{m}" for r in (0, 1) for m in ("dla34", "hourglass")} | {"fused"}
    assert set(table["name"]) == names
    assert table["oof_mAP"].between(0, 1).all() and table["test_mAP"].between(0, 1).all()
    json.loads((results / "fusion.json").read_text())
    for picture in ("predictions", "history", "evaluation"):
        assert (results / "pictures" / f"{picture}.png").stat().st_size > 5000
    assert not list(results.rglob("state.pt*")), "the state of a finished training is removed"


def test_python_files_in_the_working_folder_are_the_user_s_own(finished, tmp_path, monkeypatch):
    """Folders called models and carpose, and files that are called as libraries are, are not imported."""
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    for name in ("models", "carpose"):
        (run / name).mkdir()
        (run / name / "__init__.py").touch()
    for name in ("torch", "numpy", "cv2", "yaml", "pandas", "types", "logging"):
        (run / f"{name}.py").write_text(f"raise ImportError('the user has a {name}.py')")
    monkeypatch.delenv("PYTHONPATH", raising=False)
    model = "results/ci/round0/hourglass/fold0/model.pt"
    text = snakemake(run, model, *CI, "-R", "train", "check_data", "--until", "train")
    assert {"train", "check_data"} <= jobs(text).keys() and "epoch 2/2" in text


def test_progress_instead_of_snakemake_s_lines(finished, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    text = snakemake(run, "submission", *CI, "-R", "evaluate", "draw", "--quiet", "host", "rules")
    assert re.search(r"^progress: 3 jobs to do$", text, re.M)
    assert re.search(r"^progress: 1 of 3 jobs done after \d+ s; evaluate took \d+ s$", text, re.M)
    assert re.search(r"^progress: 3 of 3 jobs done after ", text, re.M)
    assert "Finished jobid" not in text and "steps (" not in text and "Execute " not in text
    assert "oof_mAP" in text, "what the stages print stays"


def test_pictures_that_cannot_be_drawn_cost_no_result(finished, tmp_path):
    """The photos are gone when all trainings are done: a warning, and the submission is there."""
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    for path in (run / "results" / "ci" / "demo" / "test_images").glob("*.jpg"):
        path.write_bytes(b"")
    (run / "results" / "ci" / "submission.csv").unlink()
    text = snakemake(run, "submission", *CI, "-R", "draw", "write_submission")
    assert {"draw", "write_submission"} <= jobs(text).keys() and "train" not in jobs(text)
    assert "warning: results/ci/pictures/predictions.png: not drawn: " in text
    names = ["submission.csv", *(f"pictures/{name}.png" for name in ("predictions", "history", "evaluation"))]
    for name in names:
        assert (run / "results" / "ci" / name).stat().st_size > 0, name


def test_analysis_after_it(finished):
    """From the run's own tables; the picture of the worst photos, the oracle table, the receptive fields."""
    text = snakemake(finished, "analysis", *CI)
    assert not {"train", "predict"} & set(jobs(text))
    results = finished / "results" / "ci"
    oracles = pd.read_csv(results / "analysis" / "oracles.csv")
    assert set(oracles["name"]) == set(pd.read_csv(results / "evaluation.csv")["name"])
    scores = pd.read_csv(results / "evaluation.csv").set_index("name")["oof_mAP"]
    as_predicted = oracles[oracles["oracle"] == "as predicted"].set_index("name")["mAP"]
    pd.testing.assert_series_equal(
        as_predicted.sort_index(), scores.sort_index(), check_names=False, rtol=1e-4
    )
    fields = pd.read_csv(results / "analysis" / "receptive_field.csv")
    assert fields["name"].tolist() == ["round0/dla34/fold0", "round0/hourglass/fold0"]
    for picture in ("groups", "causes", "calibration", "worst", "receptive_field"):
        assert (results / "analysis" / f"{picture}.png").stat().st_size > 5000


def test_a_second_run_uses_the_data_of_the_first(finished):
    """It plans trainings alone, and is refused where it asks for other data."""
    second = ("-n", "submission", "report", *CI, "--config", "run=second", "data_from=ci")
    planned = jobs(snakemake(finished, *second))
    assert planned["train"] == "8"
    assert not {"demo_data", "check_data", "split_folds", "build_cache"} & planned.keys()
    text = snakemake(finished, *second, 'folds={"count": 3}', check=False)
    assert "folds: differ from those of the run ci" in text


def test_second_run_has_nothing_to_do(finished):
    assert "Nothing to be done" in snakemake(finished, "submission", *CI)


def test_a_training_on_several_gpus_asks_for_all_of_it(tmp_path):
    planned = snakemake(tmp_path, "-n", "trained", *CI, "--config", 'models={"dla34": {"gpus": 3}}')
    asked = planned_jobs(planned)[["rule", "gpu", "mem_mb"]].query("rule == 'train'").to_numpy().tolist()
    assert sorted(asked) == 2 * [["train", 1, 1500]] + 2 * [["train", 3, 4500]]


def test_forecast_knows_what_earlier_jobs_took(finished, tmp_path, monkeypatch):
    """All again, and on top of it two folds of a round that has never run."""
    monkeypatch.chdir(finished)
    dry_run = snakemake(finished, "-n", "submission", "-F", *CI)
    again = forecast(planned_jobs(dry_run))
    measured = [
        pd.read_csv(path, sep="\t")["s"] for path in finished.glob("results/ci/benchmarks/train/*.tsv")
    ]
    train = again.loc["train"]
    assert train["jobs"] == train["measured"] == len(measured) == 8
    assert train["hours_expected"] == pytest.approx(pd.concat(measured).sum() / 3600)
    assert train["gpu_hours"] == pytest.approx(8 * 10 / 60)
    table = run_module("carpose.forecast", input=dry_run, cwd=finished).stdout
    assert re.search(r"^train +8 .* 0\.0\d +8$", table, re.M), table
    more = planned_jobs(snakemake(finished, "-n", "retrained", *CI, "--config", "rounds=3"))
    assert len(more.query("rule == 'train'")) == 4 and forecast(more).loc["train", "measured"] == 4


def test_forecast_does_not_depend_on_the_cores_of_the_dry_run():
    job = "rule train:\n    threads: {}\n    resources: runtime=240, gpu=1, mem_mb=4000\n"
    assert forecast(planned_jobs(job.format(1))).equals(forecast(planned_jobs(job.format(5))))


def test_forecast_wants_a_dry_run():
    with pytest.raises(UserError, match="Nothing to be done"):
        planned_jobs("Nothing to be done")


def test_published_weights_are_fetched_once_for_all_folds(tmp_path):
    settings = 'models={"dla34": {"pretrained": "hub", "width": 1}, "hourglass": null}'
    planned = snakemake(tmp_path, "-n", "-p", "trained", *CI, "--config", settings)
    assert jobs(planned)["fetch_weights"] == "1" and jobs(planned)["train"] == "2"
    assert planned.count("--pretrained results/ci/weights/dla34.safetensors") == 2
    planned = jobs(snakemake(tmp_path, "-n", "weights", *CI, "--config", settings))
    assert planned == {"fetch_weights": "1", "weights": "1"}


@pytest.mark.slow
def test_interrupted_and_killed_it_ends_the_same(finished, tmp_path):
    """Ctrl-C, then the plain command; SIGKILL of Snakemake, then the README's."""
    snakefile = str(REPOSITORY / "Snakefile")
    command = [sys.executable, "-m", "snakemake", "-s", snakefile, "--cores", "2", "submission", *CI]

    def start_and_wait_for(text):
        log = tmp_path / "run.log"
        with open(log, "w", encoding="utf-8") as output:
            run = subprocess.Popen(
                command,
                cwd=tmp_path,
                stdout=output,
                stderr=output,
                start_new_session=True,
                # A script's background jobs, these tests perhaps among them, are deaf to Ctrl-C.
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            )
        while text not in log.read_text():
            assert run.poll() is None, log.read_text()[-3000:]
            time.sleep(0.05)
        return run, log

    run, log = start_and_wait_for("/fold0] epoch 1/")
    os.killpg(run.pid, signal.SIGINT)  # as a terminal does: Snakemake and its jobs
    assert run.wait(60) != 0, log.read_text()[-3000:]
    run, log = start_and_wait_for("[round1/hourglass/fold0] epoch 1/")
    assert "going on at epoch 2" in log.read_text()
    run.kill()
    run.wait()
    with pytest.raises(AssertionError, match="rerun-incomplete|[Uu]nlock"):
        snakemake(tmp_path, "submission", *CI)
    snakemake(tmp_path, "--unlock", *CI)
    snakemake(tmp_path, "submission", "--rerun-incomplete", *CI)
    for name in ("submission.csv", "evaluation.csv"):
        path = f"results/ci/{name}"
        assert (tmp_path / path).read_bytes() == (finished / path).read_bytes()


def test_any_photo_gets_the_workflow_s_cars(finished, tmp_path):
    """All networks of a run and its fit, on the test photos as files: the fused table, where no mask hides a
    car."""
    results = finished / "results" / "ci"
    photos = (results / "demo" / "test_images").iterdir()
    photos = [path for path in photos if not (results / "demo" / "test_masks" / path.name).exists()]
    camera = results / "demo" / "camera" / "camera_intrinsic.txt"
    done = run_module(
        *("carpose.predict", "photos", "--photos", *photos, "--intrinsics", camera, "--gpus", 0),
        *("--checkpoint", *sorted(results.glob("round*/*/fold*/model.pt")), "--fit", results / "fusion.json"),
        *("--threshold", 0.01, "--flip", "false", "--output", tmp_path / "cars.parquet"),
    )
    assert "note" not in done.stderr
    ours, fused = pd.read_parquet(tmp_path / "cars.parquet"), pd.read_parquet(results / "fused_test.parquet")
    fused = fused[fused["ImageId"].isin([path.stem for path in photos]) & (fused["score"] >= 0.01)]
    order = ["ImageId", "x", "z"]
    ours, fused = (table.sort_values(order, ignore_index=True) for table in (ours, fused[list(ours)]))
    assert len(photos) > 2 and len(ours) > 0
    pd.testing.assert_frame_equal(ours, fused, check_exact=False, rtol=1e-3, atol=1e-4)
