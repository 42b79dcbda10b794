# Studies: one change at a time, measured. configs/studies/ has the study files, docs/lab/studies.md explains them.
#   snakemake -s workflow/studies.smk --cores 2 studies
#   snakemake -s workflow/studies.smk --cores 2 results/studies/radius.json
#
# Every variant with every seed is a model of the main workflow, imported as one module with one configuration;
# its rules make data, trainings and predictions.
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError
from snakemake.utils import min_version

min_version("9.27")

ROOT = Path(workflow.basedir).parent
sys.path.insert(0, str(ROOT / "workflow"))

from carpose.config.check import check
from carpose.config.load import parsed, refuse_duplicate_keys, with_models
from carpose.config.options import command_line
from carpose.config.sections import Cache, Predict
from carpose.core.errors import UserError
from carpose.studies import plan


configfile: f"{ROOT}/config.yaml"
configfile: f"{ROOT}/configs/studies.yaml"


FILES = [ROOT / "config.yaml", ROOT / "configs" / "studies.yaml", *workflow.config_settings.configfiles]
try:
    refuse_duplicate_keys(workflow.config_settings.config_args or [])
    config = parsed(with_models(config, FILES, workflow.config_settings.config or {}))
    SETTINGS = plan.settings(config)
    check({key: value for key, value in config.items() if key not in SETTINGS})
    FOLDER = Path(SETTINGS["studies_folder"] or ROOT / "configs" / "studies")
    STUDIES = {study.name: study for study in plan.select(FOLDER, SETTINGS["studies"])}
    RUNS = {name: plan.runs(study, {**config, **SETTINGS}) for name, study in STUDIES.items()}
except UserError as error:
    raise WorkflowError(str(error)) from None

BY_NAME = {run.name: run for runs in RUNS.values() for run in runs.values()}
CACHES = {run.cache_folder: run.cache for run in BY_NAME.values()}
FOLD = 0
RESULTS = f"results/{config['run']}"
ENVS = ROOT / "envs"
PIPELINE = {key: value for key, value in config.items() if key not in SETTINGS}
# Each run has a cache of its own, whose crop plan.runs has checked; this one passes the main workflow's check.
PIPELINE["cache"] = {**config["cache"], "crop": [-1.0, -1.0, 2.0, 2.0]}
PIPELINE["models"] = {name: run.train_config for name, run in BY_NAME.items()}


module pipeline:
    snakefile:
        "../Snakefile"
    config:
        PIPELINE


use rule demo_data from pipeline


use rule check_data from pipeline


use rule split_folds from pipeline


use rule build_cache from pipeline with:
    output:
        meta=f"{RESULTS}/{{cache}}/cache.json",
        photos=f"{RESULTS}/{{cache}}/photos.npy",
    log:
        f"{RESULTS}/logs/build_{{cache}}.log",
    params:
        cache=lambda wildcards: command_line(Cache, CACHES[wildcards.cache]),


use rule fetch_weights from pipeline


use rule train from pipeline with:
    input:
        cache=lambda wildcards: f"{RESULTS}/{BY_NAME[wildcards.model].cache_folder}/cache.json",
        photos=lambda wildcards: f"{RESULTS}/{BY_NAME[wildcards.model].cache_folder}/photos.npy",
        images=rules.check_data.output.images,
        labels=rules.check_data.output.labels,
        folds=rules.split_folds.output[0],
        weights=pipeline.pretrained_weights,


# Only one fold is trained. A variant that changes only the prediction uses the network of its base.
use rule predict from pipeline with:
    input:
        cache=lambda wildcards: f"{RESULTS}/{BY_NAME[wildcards.model].cache_folder}/cache.json",
        photos=lambda wildcards: f"{RESULTS}/{BY_NAME[wildcards.model].cache_folder}/photos.npy",
        images=rules.check_data.output.images,
        labels=rules.check_data.output.labels,
        folds=rules.split_folds.output[0],
        models=lambda wildcards: [f"{RESULTS}/round0/{BY_NAME[wildcards.model].trained}/fold{FOLD}/model.pt"],
    params:
        predict=lambda wildcards: f"--fewer-folds {command_line(Predict, BY_NAME[wildcards.model].predict)}",


wildcard_constraints:
    study="|".join(STUDIES),


rule measure:
    "The metric of every run of one study, and the gain of each variant over the base."
    input:
        study=f"{FOLDER}/{{study}}.yaml",
        images=rules.check_data.output.images,
        labels=rules.check_data.output.labels,
        folds=rules.split_folds.output[0],
        predictions=lambda wildcards: expand(
            f"{RESULTS}/round0/{{run}}/{{table}}.parquet",
            run=[run.name for run in RUNS[wildcards.study].values()],
            table=["oof", "test"],
        ),
        truth=pipeline.TRUTH,
    output:
        f"{RESULTS}/{{study}}.json",
    log:
        f"{RESULTS}/logs/measure/{{study}}.log",
    conda:
        f"{ENVS}/torch.yaml"
    params:
        truth=lambda wildcards, input: f"--test-truth {input.truth}" if input.truth else "",
        runs=lambda wildcards: " ".join(
            f"--run {variant} {seed} {RESULTS}/round0/{run.name} {RESULTS}/round0/{run.trained}/fold{FOLD}"
            for (variant, seed), run in RUNS[wildcards.study].items()
        ),
    shell:
        "python -m carpose.studies measure --study {input.study} --images {input.images} --labels {input.labels}"
        " --folds {input.folds}"
        f" --fold {FOLD} {{params.truth}} {{params.runs}} --output {{output}} 2>&1 | tee {{log}}"


rule tabulate:
    "All studies in one table, and a figure of the gains."
    input:
        expand(f"{RESULTS}/{{study}}.json", study=STUDIES),
    output:
        json=f"{RESULTS}/table/studies.json",
        markdown=f"{RESULTS}/table/studies.md",
        picture=f"{RESULTS}/table/studies.png",
    log:
        f"{RESULTS}/logs/tabulate.log",
    conda:
        f"{ENVS}/light.yaml"
    shell:
        "python -m carpose.studies table --lenient {input} --output {output.json} --markdown {output.markdown}"
        " --picture {output.picture} 2>&1 | tee {log}"


rule studies:
    "All studies: results/studies/table/studies.md and its figure."
    default_target: True
    input:
        rules.tabulate.output,
