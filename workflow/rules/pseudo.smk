# Pseudo labels: for fold k only from models that never saw fold k's validation photos.


def previous_pseudo(wildcards):
    before = int(wildcards.round) - 1
    return f"{RESULTS}/round{before}/pseudo.parquet" if before >= 0 else []


rule make_pseudo_labels:
    "Fuse the test predictions of one round, fold by fold, into labels for the next round."
    input:
        labels=rules.check_data.output.labels,
        folds=rules.split_folds.output[0],
        oof=lambda wildcards: members([wildcards.round], "oof", RECIPES),
        test_folds=lambda wildcards: members([wildcards.round], "test_folds", RECIPES),
        previous=previous_pseudo,
        truth=TRUTH,
    output:
        pseudo=f"{RESULTS}/round{{round}}/pseudo.parquet",
        report=f"{RESULTS}/round{{round}}/pseudo.json",
    log:
        f"{RESULTS}/logs/pseudo/round{{round}}.log",
    conda:
        f"{ENVS}/light.yaml"
    resources:
        **asks("small"),
    params:
        fit=lambda wildcards: named([wildcards.round], "oof", RECIPES),
        test=lambda wildcards: named([wildcards.round], "test_folds", RECIPES),
        mode=config["pseudo"]["mode"],
        positive=config["pseudo"]["precision_positive"],
        ignore=config["pseudo"]["precision_ignore"],
        previous=lambda wildcards, input: f"--previous {input.previous}" if input.previous else "",
        # Of the demo the truth is known: how right the pseudo labels are is reported, nothing is fitted to it.
        truth=lambda wildcards, input: f"--test-truth {input.truth}" if input.truth else "",
    shell:
        "python -m carpose.pseudo --labels {input.labels} --folds {input.folds} --fit-members {params.fit}"
        " --test-members {params.test} --mode {params.mode} --precision-positive {params.positive}"
        " --precision-ignore {params.ignore} {params.previous} {params.truth}"
        " --output {output.pseudo} --report {output.report} 2>&1 | tee {log}"
