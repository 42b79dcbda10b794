# Configuration, paths and helpers shared by all rules.
import json
import os
import shlex
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError

# Not workflow.basedir, which differs when a Snakefile in another folder imports these rules.
LIBRARY = Path(workflow.current_basedir).parent
ENVS = LIBRARY.parent / "envs"  # for --sdm conda
sys.path.insert(0, str(LIBRARY))

from carpose.config.check import check
from carpose.config.load import (
    check_data_from,
    gpus_of,
    models_of,
    parsed,
    train_settings,
    train_configs,
    refuse_duplicate_keys,
    start_round,
    with_models,
)
from carpose.config.options import command_line
from carpose.config.train_config import TrainConfig
from carpose.config.sections import Cache, Demo, Exclude, Folds, Fuse, Predict, Pseudo, Running
from carpose.core.errors import UserError
from carpose.core.files import write_text
from carpose.forecast.stopping import stop_later, stop_time, was_stopped
from carpose.fuse.names import SUBMISSIONS
from carpose.kaggle.identity import DATA_FILES, data_identity
from carpose.registry.backbones import published_name

try:
    # Another workflow that uses these rules as a module passes its own configuration, after with_models.
    if not workflow.modifier.skip_configfile:
        refuse_duplicate_keys(workflow.config_settings.config_args or [])
        files = [LIBRARY.parent / "config.yaml", *workflow.config_settings.configfiles]
        config = with_models(config, files, workflow.config_settings.config or {})
    config = parsed(config)
    check(config)
    # No shell expands --config data_root=~/pku.
    config["data_root"] = os.path.expanduser(config["data_root"])
    # Data, check, folds and cache: this run's own, or those of the run that `data_from` names.
    SHARED = f"results/{config['data_from'] or config['run']}"
    check_data_from(config, Path(SHARED) / "config.json")
    START_RUN = f"results/{config['start_from']}" if config["start_from"] else ""
    START_ROUND = start_round(config, Path(START_RUN) / "config.json") if START_RUN else 0
except UserError as error:
    raise WorkflowError(str(error)) from None

# Jobs find the library even if it is not installed, and use the environment of Snakemake even if that was not
# activated. `python -P` (PYTHONSAFEPATH) imports nothing from the working folder, where a user may have a torch.py or a
# folder called models.
os.environ.update(PYTHONSAFEPATH="1")
for variable, folders in {
    "PYTHONPATH": [LIBRARY, LIBRARY.parent],
    "PATH": [Path(sys.executable).parent],
}.items():
    inherited = filter(None, [os.environ.get(variable)])
    os.environ[variable] = os.pathsep.join([*map(str, folders), *inherited])

RESULTS = f"results/{config['run']}"
ROUNDS = config["rounds"]
FOLDS = range(config["folds"]["count"])
MODELS = models_of(config)
GPUS = {name: gpus_of(config, name) for name in MODELS}
# Published network weights to fetch: timm's name → a training configuration that starts with them.
PUBLISHED_WEIGHTS = {
    published_name(train_config.backbone, train_config.width): train_config
    for model in MODELS
    for train_config in train_configs(config, model)
    if train_config.pretrained == "hub"
}
FUSED_ROUNDS = range(ROUNDS) if config["fuse"]["rounds"] == "all" else config["fuse"]["rounds"]
DEMO = not config["data_root"]
DATA = f"{SHARED}/demo" if DEMO else config["data_root"]
TRUTH = f"{SHARED}/demo_truth.csv" if DEMO else []
MISSING = [] if DEMO else [file for file in DATA_FILES if not (Path(DATA) / file).is_file()]
# A fingerprint of the data, whatever their path. Demo data need none: their settings are the rule's params.
try:
    IDENTITY = "" if DEMO or MISSING else data_identity(DATA)
except OSError as error:
    raise WorkflowError(f"data_root: {error.filename}: {error.strerror}") from None


wildcard_constraints:
    round=r"\d",
    fold=r"\d+",
    model="|".join(MODELS),


# When all trainings save their state and stop.
STOP_AFTER = config["running"]["stop_after_minutes"]
STOP_AT = stop_time(STOP_AFTER, workflow.is_main_process)


RECORDS = Path(".snakemake/metadata")
if (
    workflow.is_main_process
    and Path(f"{RESULTS}/config.json").exists()
    and not (RECORDS.is_dir() and any(RECORDS.iterdir()))
):
    print(
        f"note: {RESULTS} is here without Snakemake's records (.snakemake). So it is not known with which settings and"
        " data its files were made; what is older than its input is made again. If it is a copy, copy .snakemake too;"
        " or let the same command, with --touch, take all files as they are.",
        file=sys.stderr,
        flush=True,
    )


# The configuration of this run, beside its results: reports and comparisons of runs show it.
onstart:
    write_text(f"{RESULTS}/config.json", json.dumps(config, indent=1, ensure_ascii=False) + "\n")
    if STOP_AT and workflow.is_main_process:
        stop_later(workflow, STOP_AT)
    from carpose.forecast.progress import show_progress  # pandas takes a second to import

    show_progress(workflow, lambda wildcards: train_keys(wildcards).get("epochs", TrainConfig.epochs))


onerror:
    if workflow.is_main_process and was_stopped(workflow, STOP_AT):
        print(
            f"stopped after {STOP_AFTER:g} minutes as asked; go on with the same command",
            file=sys.stderr,
            flush=True,
        )


# Params. Snakemake 9.27 stores their values as a set without names, so it does not notice that two numbers change
# places. Settings are therefore passed as one text of named options. It does not store the value of a function of
# `input`, so a change of it makes no job run again. `untracked` uses this, for example for the path of the data.


def settings(section, values):
    """Settings of a section (or of TrainConfig) as one text of options."""
    text = command_line(section, values)
    return lambda wildcards: text


def require_data(wildcards):
    """Raises an error if data_root lacks the competition's data; adds no input files."""
    if MISSING:
        raise WorkflowError(
            f"data_root: there is no {DATA}/{MISSING[0]}; name the folder that holds the competition's data, or"
            " download them into a new one: snakemake download_data"
        )
    return []


def require_competition_data(wildcards):
    """Raises an error if data_root is empty, which means the demo data; adds no input files."""
    if DEMO:
        raise WorkflowError(
            "data_root is empty, which means the demo data; name a folder: --config data_root=FOLDER"
        )
    return []


def exclusions():
    """Options of the check, untracked: the reasons in them change no result."""
    values = dict(config["exclude"])
    reasons = shlex.join(f"{image}={why}" for image, why in values.pop("images", {}).items())
    return untracked(f"--exclude {reasons} {command_line(Exclude, values)}")


def untracked(value):
    """A param whose change makes no job run again."""
    return lambda wildcards, input: value


def running_options():
    """Options of a training that change no result. Not stop_after_minutes, but when that is."""
    values = {key: value for key, value in config["running"].items() if key != "stop_after_minutes"}
    return f"{command_line(Running, values)} --stop-at {STOP_AT:.0f}"


def train_keys(wildcards):
    """The keys of a model's TrainConfig in a round. For `pretrained: hub`, the file of `fetch_weights` is named."""
    keys = train_settings(config, wildcards.model, int(wildcards.round))
    if keys.get("pretrained") == "hub":
        name = published_name(keys["backbone"], keys.get("width", TrainConfig.width))
        keys["pretrained"] = f"{RESULTS}/weights/{name}.safetensors"
    return keys


def pretrained_weights(wildcards):
    """The file of network weights that a training starts with, if any."""
    source = train_keys(wildcards).get("pretrained", "none")
    return [] if source == "none" else source


def from_round_before(wildcards):
    """The pseudo labels and, for a warm start, the network weights of the round before. Before the first round
    comes the last one of the run that `start_from` names."""
    before = int(wildcards.round) - 1
    if before < 0:
        path = f"{START_RUN}/round{START_ROUND}/{wildcards.model}/fold{wildcards.fold}/model.pt"
        if START_RUN and not Path(path).is_file():
            raise WorkflowError(
                f"start_from: there is no {path}; finish the run {config['start_from']} first"
            )
        return {"start_weights": path} if START_RUN else {}
    files = {"pseudo": f"{RESULTS}/round{before}/pseudo.parquet"}
    if train_keys(wildcards).get("start", TrainConfig.start) == "warm":
        files["start_weights"] = f"{RESULTS}/round{before}/{wildcards.model}/fold{wildcards.fold}/model.pt"
    return files


def previous_pseudo(wildcards):
    """The pseudo labels of the round before, if there is one."""
    before = int(wildcards.round) - 1
    return f"{RESULTS}/round{before}/pseudo.parquet" if before >= 0 else []


def checkpoints(rounds):
    """Paths of the checkpoints of all models and folds in these rounds."""
    return expand(
        f"{RESULTS}/round{{round}}/{{model}}/fold{{fold}}/model.pt", round=rounds, model=MODELS, fold=FOLDS
    )


def histories(rounds):
    """Histories of all trainings in these rounds as NAME=PATH options."""
    return " ".join(
        f"{training}={RESULTS}/{training}/history.csv"
        for training in expand("round{round}/{model}/fold{fold}", round=rounds, model=MODELS, fold=FOLDS)
    )


def members(rounds, table):
    """Paths of the tables of predictions (oof, test or test_folds) of all models in these rounds."""
    return expand(f"{RESULTS}/round{{round}}/{{model}}/{table}.parquet", round=rounds, model=MODELS)


def name_path_args(rounds, table):
    """The same tables as NAME=PATH options, with names such as round0/dla34."""
    return " ".join(
        f"round{round}/{model}={RESULTS}/round{round}/{model}/{table}.parquet"
        for round in rounds
        for model in MODELS
    )


def processes(wildcards):
    """Number of processes of a training: one per GPU."""
    return max(GPUS[wildcards.model], 1)


def stage_resources(stage, processes=lambda wildcards: 1):
    """Memory and time that a job of this stage requests, multiplied by the number of the attempt."""
    requested = config["resources"][stage]
    return {
        "mem_mb": lambda wildcards, attempt: requested["mem_mb"] * processes(wildcards) * attempt,
        "runtime": lambda wildcards, attempt: requested["runtime"] * attempt,
    }


def threads_of(stage):
    """Threads that a job of this stage requests."""
    return config["resources"][stage]["threads"]
