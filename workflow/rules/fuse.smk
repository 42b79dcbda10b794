# The fusion is fitted on out-of-fold predictions, then applied to the test photos.

WRITTEN = SUBMISSIONS[config["fuse"]["mode"]]


rule fit_fusion:
    "Fit member weights, calibration and threshold out of fold; report the cross-validated gain of each."
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
        **stage_resources("small"),
    params:
        members=f"--members {name_path_args(FUSED_ROUNDS, 'oof')}",
        fuse=settings(Fuse, {key: value for key, value in config["fuse"].items() if key != "rounds"}),
    shell:
        "python -m carpose.fuse.fit --labels {input.labels} --folds {input.folds} {params.members}"
        " {params.fuse} --output {output.fit} --fused-output {output.fused} 2>&1 | tee {log}"


rule fuse:
    "Associate and average the cars of all members on the test photos."
    input:
        fit=rules.fit_fusion.output.fit,
        test=members(FUSED_ROUNDS, "test"),
    output:
        f"{RESULTS}/fused_test.parquet",
    log:
        f"{RESULTS}/logs/fuse.log",
    conda:
        f"{ENVS}/light.yaml"
    resources:
        **stage_resources("small"),
    params:
        members=f"--inputs {name_path_args(FUSED_ROUNDS, 'test')}",
    shell:
        "python -m carpose.fuse {params.members} --fit {input.fit} --output {output} 2>&1 | tee {log}"


rule write_submission:
    "Write and validate submission.csv for the metric of fuse.mode, and another file for the other metric."
    input:
        cars=rules.fuse.output[0],
        fit=rules.fit_fusion.output.fit,
        images=rules.check_data.output.images,
    output:
        all=f"{RESULTS}/{WRITTEN['all']}",
        thresholded=f"{RESULTS}/{WRITTEN['thresholded']}",
    log:
        f"{RESULTS}/logs/write_submission.log",
    # Before evaluation and pictures, so that the submission exists even if one of these fails.
    priority: 1
    conda:
        f"{ENVS}/light.yaml"
    resources:
        **stage_resources("small"),
    shell:
        "python -m carpose.fuse.write {input.cars} --fit {input.fit} --images {input.images}"
        " --all-output {output.all} --thresholded-output {output.thresholded} 2>&1 | tee {log}"


rule submit:
    "Send the submission to the leaderboard with the kaggle client; write its scores to leaderboard.csv."

    # It has no output, so it runs only when it is named on the command line.
    input:
        require_competition_data,
        submission=f"{RESULTS}/submission.csv",
        images=rules.check_data.output.images,
    log:
        f"{RESULTS}/logs/submit.log",
    conda:
        f"{ENVS}/light.yaml"
    params:
        record=f"{RESULTS}/leaderboard.csv",
    shell:
        "python -m carpose.kaggle submit {input.submission} --images {input.images} --record {params.record}"
        " 2>&1 | tee {log}"
