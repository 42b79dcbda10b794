# From photos and train.csv to submission.csv. This file has the targets; the rules are in workflow/rules.
from snakemake.utils import min_version

min_version("9.27")


configfile: f"{workflow.basedir}/config.yaml"


include: "workflow/rules/common.smk"
include: "workflow/rules/data.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/predict.smk"
include: "workflow/rules/pseudo.smk"
include: "workflow/rules/fuse.smk"
include: "workflow/rules/report.smk"


# Targets, named after what they make.


rule submission:
    "submission.csv from all rounds of all models, with its evaluation and pictures."
    default_target: True
    input:
        f"{RESULTS}/submission.csv",
        f"{RESULTS}/evaluation.csv",
        PICTURES,


rule data_check:
    "The check of the data folder: findings.csv, and tables of images and labels."
    input:
        rules.check_data.output.images,


rule weights:
    "The published network weights of models with `pretrained: hub`, fetched once on this machine."
    input:
        expand(f"{RESULTS}/weights/{{published}}.safetensors", published=PUBLISHED_WEIGHTS),


rule trained:
    "Round 0: every model trained on every fold."
    input:
        checkpoints(range(1)),


rule retrained:
    "All later rounds: every model trained again with the pseudo-labelled test photos."
    input:
        checkpoints(range(1, ROUNDS)),


rule predictions:
    "Out-of-fold and test predictions of every model and round."
    input:
        members(range(ROUNDS), "test"),


rule pseudo_labels:
    "Pseudo labels of the test photos, of every round but the last."
    input:
        expand(f"{RESULTS}/round{{round}}/pseudo.parquet", round=range(ROUNDS - 1)),


rule evaluation:
    "The metric of every model, every round and the fusion, out of fold and (demo) on the test photos."
    input:
        f"{RESULTS}/evaluation.csv",


rule analysis:
    "Error analysis: errors by group of cars, cause and threshold; receptive fields of the networks."
    input:
        *ANALYSIS.values(),


rule report:
    "One HTML page about the run, to open in a browser: report.html."
    input:
        rules.write_report.output,
