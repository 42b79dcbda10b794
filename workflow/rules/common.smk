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

from carpose import UserError
from carpose.config import check, parsed
from carpose.recipe import command_line, plain, recipe_of

config = parsed(config)
try:
    check(config)
except UserError as error:
    raise WorkflowError(str(error)) from None

# Jobs find the library whether or not it is installed in their environment.
os.environ["PYTHONPATH"] = os.pathsep.join(
    [str(LIBRARY), str(LIBRARY.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
)
# Jobs run in the environment that runs the workflow, also where it was not activated.
os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])

RESULTS = f"results/{config['run']}"
ROUNDS = config["rounds"]
FOLDS = range(config["folds"]["count"])
MODELS = {name: recipe_of(config, name) for name, own in config["models"].items() if own}
RECIPES = {name: recipe for name, (recipe, _) in MODELS.items()}
GPUS = {name: gpus for name, (_, gpus) in MODELS.items()}
FETCHED = [name for name, recipe in RECIPES.items() if recipe.get("pretrained") == "hub"]
DEMO = not config["data_root"]
DATA = f"{RESULTS}/demo" if DEMO else config["data_root"]
TRUTH = f"{RESULTS}/demo_truth.csv" if DEMO else []
# What is predicted, evaluated and fused: the models and, on request, their averaged maps.
MEMBERS = [*RECIPES, *(["maps"] if config["fuse"]["average_maps"] else [])]
FUSED_ROUNDS = range(ROUNDS) if config["fuse"]["rounds"] == "all" else config["fuse"]["rounds"]

if not DEMO and not (Path(DATA) / "train.csv").is_file():
    raise WorkflowError(
        f"data_root: there is no {DATA}/train.csv; name the folder that holds the competition's data"
    )


wildcard_constraints:
    round=r"\d",
    fold=r"\d+",
    model="|".join(MEMBERS),


def models_of(rounds):
    """Checkpoints of all models and folds of these rounds."""
    return expand(
        f"{RESULTS}/round{{round}}/{{model}}/fold{{fold}}/model.pt", round=rounds, model=RECIPES, fold=FOLDS
    )


def members(rounds, table, names=MEMBERS):
    """Tables of predictions (oof, test or test_folds) of all members of these rounds."""
    return expand(f"{RESULTS}/round{{round}}/{{model}}/{table}.parquet", round=rounds, model=names)


def named(rounds, table, names=MEMBERS):
    """The same as NAME=PATH options, NAME being round0/dla34 and so on."""
    return [
        f"round{round}/{model}={RESULTS}/round{round}/{model}/{table}.parquet"
        for round in rounds
        for model in names
    ]


def processes(wildcards):
    """Processes of a training, one per GPU."""
    return max(GPUS[wildcards.model], 1)


def asks(stage, processes=lambda wildcards: 1):
    """What a job of this stage asks for; memory and time grow with the attempt."""
    wish = config["resources"][stage]
    return {
        "mem_mb": lambda wildcards, attempt: wish["mem_mb"] * processes(wildcards) * attempt,
        "runtime": lambda wildcards, attempt: wish["runtime"] * attempt,
    }


def threads_of(stage):
    return config["resources"][stage]["threads"]


# How a stage runs is no part of its result: passed as resources, these make nothing run again.
RUNNING = {key: int(value) for key, value in config["running"].items()}
