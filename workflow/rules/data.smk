# From a folder of photos to tables, folds and the picture cache.

if DEMO:

    rule demo_data:
        "Demo photos in the competition's layout, rendered; the truth of the test photos is kept apart."
        output:
            f"{DATA}/train.csv",
            f"{DATA}/sample_submission.csv",
            f"{DATA}/camera/camera_intrinsic.txt",
            truth=f"{RESULTS}/demo_truth.csv",
        log:
            f"{RESULTS}/logs/demo_data.log",
        conda:
            f"{ENVS}/light.yaml"
        threads: workflow.resource_settings.cores or 2
        params:
            folder=DATA,
            demo=shlex.join(
                word
                for key, value in config["demo"].items()
                if value != ""
                for word in (f"--{key.replace('_', '-')}", str(value))
            ),
        shell:
            "python -m carpose.synth --output {params.folder:q} --truth-output {output.truth} {params.demo}"
            " --jobs {threads} 2>&1 | tee {log}"


rule check_data:
    "Read every photo, mask and label once; stop on what cannot be worked with."
    input:
        f"{DATA}/train.csv",
        f"{DATA}/sample_submission.csv",
        f"{DATA}/camera/camera_intrinsic.txt",
    output:
        images=f"{RESULTS}/data/images.parquet",
        labels=f"{RESULTS}/data/labels.parquet",
    log:
        f"{RESULTS}/logs/check_data.log",
        # Not an output: those are deleted when the check fails, and then the findings are what one needs.
        findings=f"{RESULTS}/data/findings.csv",
    conda:
        f"{ENVS}/light.yaml"
    threads: workflow.resource_settings.cores or 2
    resources:
        **asks("small"),
    params:
        folder=DATA,
        # Functions, since braces in a reason are no wildcards.
        exclude=lambda wildcards: [f"{image}={why}" for image, why in config["exclude"]["images"].items()],
        depth=config["exclude"]["max_depth"],
        reason=lambda wildcards: config["exclude"]["max_depth_reason"],
    shell:
        "python -m carpose.kaggle check {params.folder:q} --findings {log.findings} --images {output.images}"
        " --labels {output.labels} --max-depth {params.depth} --max-depth-reason {params.reason:q}"
        " --exclude {params.exclude:q} --jobs {threads} 2>&1 | tee {log[0]}"


rule split_folds:
    "Divide the training photos into folds; near-duplicates stay together."
    input:
        images=rules.check_data.output.images,
        labels=rules.check_data.output.labels,
    output:
        f"{RESULTS}/data/folds.parquet",
    log:
        f"{RESULTS}/logs/split_folds.log",
    conda:
        f"{ENVS}/light.yaml"
    resources:
        **asks("small"),
    params:
        fold_count=config["folds"]["count"],
        seed=config["folds"]["seed"],
        distance=config["folds"]["hash_distance"],
    shell:
        "python -m carpose.folds --images {input.images} --labels {input.labels} --folds {params.fold_count}"
        " --seed {params.seed} --hash-distance {params.distance} --output {output} 2>&1 | tee {log}"


rule build_cache:
    "Decode, crop and scale every photo once into a memory-mapped file."
    input:
        images=rules.check_data.output.images,
    output:
        f"{RESULTS}/cache/cache.json",
        f"{RESULTS}/cache/photos.npy",
    log:
        f"{RESULTS}/logs/build_cache.log",
    conda:
        f"{ENVS}/light.yaml"
    threads: workflow.resource_settings.cores or 2
    resources:
        **asks("small"),
    params:
        data=DATA,
        crop=[plain(edge) for edge in config["cache"]["crop"]],
        scale=config["cache"]["scale"],
    shell:
        "python -m carpose.cache --data {params.data:q} --images {input.images} --crop {params.crop}"
        " --scale {params.scale} --jobs {threads} --output $(dirname {output[0]}) 2>&1 | tee {log}"
