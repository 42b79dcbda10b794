# What the fusion needs is fitted on out-of-fold predictions, then applied to the test photos.


rule fit_fusion:
    "Fit weights, calibration and threshold out of fold; report the honest gain of each."
    input:
        labels=rules.check_data.output.labels,
        folds=rules.split_folds.output[0],
        oof=members(FUSED_ROUNDS, "oof"),
    output:
        fit=f"{RESULTS}/fusion.json",
        fused=f"{RESULTS}/fused_oof.parquet",
    log:
        f"{RESULTS}/logs/fit_fusion.log",
    conda:
        f"{ENVS}/light.yaml"
    resources:
        **asks("small"),
    params:
        members=named(FUSED_ROUNDS, "oof"),
        mode=config["fuse"]["mode"],
    shell:
        "python -m carpose.fusion_fit --labels {input.labels} --folds {input.folds} --members {params.members}"
        " --mode {params.mode} --output {output.fit} --fused-output {output.fused} 2>&1 | tee {log}"


rule fuse:
    "Cluster and average the cars of all members on the test photos."
    input:
        fit=rules.fit_fusion.output.fit,
        test=members(FUSED_ROUNDS, "test"),
        images=rules.check_data.output.images if config["fuse"]["hash_distance"] >= 0 else [],
    output:
        f"{RESULTS}/fused_test.parquet",
    log:
        f"{RESULTS}/logs/fuse.log",
    conda:
        f"{ENVS}/light.yaml"
    resources:
        **asks("small"),
    params:
        members=named(FUSED_ROUNDS, "test"),
        # Not made from `input`: Snakemake would not record it, and a change would fuse nothing anew.
        twins=(
            f"--images {rules.check_data.output.images} --hash-distance {config['fuse']['hash_distance']}"
            if config["fuse"]["hash_distance"] >= 0
            else ""
        ),
    shell:
        "python -m carpose.fuse --inputs {params.members} --weights {input.fit} {params.twins}"
        " --output {output} 2>&1 | tee {log}"


rule write_submission:
    "Write and validate submission.csv, and one of the sure cars alone, for scoring that ignores confidences."
    input:
        cars=rules.fuse.output[0],
        sample=f"{DATA}/sample_submission.csv",
    output:
        all=f"{RESULTS}/submission.csv",
        sure=f"{RESULTS}/submission_sure.csv",
    log:
        f"{RESULTS}/logs/write_submission.log",
    conda:
        f"{ENVS}/light.yaml"
    resources:
        **asks("small"),
    shell:
        "python -m carpose.kaggle write {input.cars} --sample {input.sample:q} --output {output.all}"
        " --sure-output {output.sure} 2>&1 | tee {log}"
