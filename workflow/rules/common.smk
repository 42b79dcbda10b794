# Configuration, paths and helpers shared by all rules.
import os
import shlex
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError

# Not workflow.basedir, which is another folder when a Snakefile elsewhere imports these rules.
LIBRARY = Path(workflow.current_basedir).parent
ENVS = LIBRARY.parent / "envs"  # for --sdm conda
sys.path.insert(0, str(LIBRARY))

from carpose.config.check import check
from carpose.config.load import (
    gpus_of,
    models_of,
    parsed,
    train_settings,
    train_configs,
    refuse_duplicate_keys,
    with_models,
)
from carpose.config.options import command_line
from carpose.config.train_config import TrainConfig
from carpose.config.sections import Cache, Demo, Exclude, Folds, Fuse, Predict, Pseudo, Running
from carpose.core.errors import UserError
from carpose.kaggle.identity import TABLES, data_identity
from carpose.registry.backbones import published_name

try:
    # Another workflow that uses these rules as a module hands over its own configuration, models settled.
    if not workflow.modifier.skip_configfile:
        refuse_duplicate_keys(workflow.config_settings.config_args or [])
        files = [LIBRARY.parent / "config.yaml", *workflow.config_settings.configfiles]
        config = with_models(config, files, workflow.config_settings.config or {})
    config = parsed(config)
    check(config)
except UserError as error:
    raise WorkflowError(str(error)) from None

# Jobs find the library whether or not it is installed in their environment, and run in the environment that runs the
# workflow, also where it was not activated. What lies in the working folder is not imported (`python -P`): a torch.py
# or a folder called models there is the user's own.
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
# Published weights to begin with: timm's name → the backbone and width that they are for.
FETCHED = {
    published_name(train_config.backbone, train_config.width): train_config
    for model in MODELS
    for train_config in train_configs(config, model)
    if train_config.pretrained == "hub"
}
FUSED_ROUNDS = range(ROUNDS) if config["fuse"]["rounds"] == "all" else config["fuse"]["rounds"]
DEMO = not config["data_root"]
DATA = f"{RESULTS}/demo" if DEMO else config["data_root"]
TRUTH = f"{RESULTS}/demo_truth.csv" if DEMO else []
MISSING = [] if DEMO else [table for table in TABLES if not (Path(DATA) / table).is_file()]
# What the data are, wherever they lie: of the demo its settings say that.
try:
    IDENTITY = "" if DEMO or MISSING else data_identity(DATA)
except OSError as error:
    raise WorkflowError(f"data_root: {error.filename}: {error.strerror}") from None


wildcard_constraints:
    round=r"\d",
    fold=r"\d+",
    model="|".join(MODELS),


# What rules pass to their programs. Snakemake 9.27 remembers the values of `params` as a set without names, so two
# numbers that change places go unnoticed: settings are passed as one text of named options. And it does not
# remember what a function of `input` returns: so is passed whatever must not make a job run again, such as where the
# data lie, and how a stage is run.


def settings(section, values):
    """Settings of a section, or a recipe, as one text of options."""
    text = command_line(section, values)
    return lambda wildcards: text


def data_folder(wildcards):
    """No input, but an error where the user's folder lacks the competition's data."""
    if MISSING:
        raise WorkflowError(
            f"data_root: there is no {DATA}/{MISSING[0]}; name the folder that holds the competition's data, or"
            " fetch them into a new one: snakemake download_data"
        )
    return []


def competition_only(wildcards):
    """No input, but an error without a folder of the competition's data."""
    if DEMO:
        raise WorkflowError(
            "the demo's photos are not the competition's; name a folder: --config data_root=FOLDER"
        )
    return []


def exclusions():
    """What the check leaves out, with reasons, which change nothing."""
    values = dict(config["exclude"])
    reasons = shlex.join(f"{image}={why}" for image, why in values.pop("images", {}).items())
    return unremembered(f"--exclude {reasons} {command_line(Exclude, values)}")


def unremembered(value):
    """A param whose change makes nothing run again."""
    return lambda wildcards, input: value


def train_keys(wildcards):
    """A model's recipe in a round; published weights come from the file that `fetch_weights` made."""
    keys = train_settings(config, wildcards.model, int(wildcards.round))
    if keys.get("pretrained") == "hub":
        name = published_name(keys["backbone"], keys.get("width", TrainConfig.width))
        keys["pretrained"] = f"{RESULTS}/weights/{name}.safetensors"
    return keys


def pretrained_weights(wildcards):
    """The file of weights that a training begins with, if any."""
    source = train_keys(wildcards).get("pretrained", "none")
    return [] if source == "none" else source


def from_round_before(wildcards):
    """Pseudo labels and, for a warm start, the weights of the round before."""
    before = int(wildcards.round) - 1
    if before < 0:
        return {}
    files = {"pseudo": f"{RESULTS}/round{before}/pseudo.parquet"}
    if train_keys(wildcards).get("start", TrainConfig.start) == "warm":
        files["start_weights"] = f"{RESULTS}/round{before}/{wildcards.model}/fold{wildcards.fold}/model.pt"
    return files


def previous_pseudo(wildcards):
    before = int(wildcards.round) - 1
    return f"{RESULTS}/round{before}/pseudo.parquet" if before >= 0 else []


def checkpoints(rounds):
    """Checkpoints of all models and folds of these rounds."""
    return expand(
        f"{RESULTS}/round{{round}}/{{model}}/fold{{fold}}/model.pt", round=rounds, model=MODELS, fold=FOLDS
    )


def histories(rounds):
    """The same trainings' histories as NAME=PATH options."""
    return " ".join(
        f"{training}={RESULTS}/{training}/history.csv"
        for training in expand("round{round}/{model}/fold{fold}", round=rounds, model=MODELS, fold=FOLDS)
    )


def members(rounds, table):
    """Tables of predictions (oof, test or test_folds) of all models of these rounds."""
    return expand(f"{RESULTS}/round{{round}}/{{model}}/{table}.parquet", round=rounds, model=MODELS)


def name_path_args(rounds, table):
    """The same as NAME=PATH options, NAME being round0/dla34 and so on."""
    return " ".join(
        f"round{round}/{model}={RESULTS}/round{round}/{model}/{table}.parquet"
        for round in rounds
        for model in MODELS
    )


def processes(wildcards):
    """Processes of a training, one per GPU."""
    return max(GPUS[wildcards.model], 1)


def stage_resources(stage, processes=lambda wildcards: 1):
    """What a job of this stage asks for; memory and time grow with the attempt."""
    asked = config["resources"][stage]
    return {
        "mem_mb": lambda wildcards, attempt: asked["mem_mb"] * processes(wildcards) * attempt,
        "runtime": lambda wildcards, attempt: asked["runtime"] * attempt,
    }


def threads_of(stage):
    return config["resources"][stage]["threads"]
