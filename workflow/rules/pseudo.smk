# Pseudo labels. Those for fold k come only from networks that were not trained on fold k's validation photos.


rule make_pseudo_labels:
    "Fuse the test predictions of one round, fold by fold, into labels for the next round."
    input:
        labels=rules.check_data.output.labels,
        folds=rules.split_folds.output[0],
        oof=lambda wildcards: members([wildcards.round], "oof"),
        test_folds=lambda wildcards: members([wildcards.round], "test_folds"),
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
        **stage_resources("small"),
    params:
        members=lambda wildcards: (
            f"--fit-members {name_path_args([wildcards.round], 'oof')}"
            f" --test-members {name_path_args([wildcards.round], 'test_folds')}"
        ),
        pseudo=settings(Pseudo, config["pseudo"]),
        previous=lambda wildcards, input: f"--previous {input.previous}" if input.previous else "",
        # The demo's true cars are used only to report the precision of the pseudo labels.
        truth=lambda wildcards, input: f"--test-truth {input.truth}" if input.truth else "",
    shell:
        "python -m carpose.pseudo --labels {input.labels} --folds {input.folds} {params.members} {params.pseudo}"
        " {params.previous} {params.truth} --output {output.pseudo} --report {output.report} 2>&1 | tee {log}"
