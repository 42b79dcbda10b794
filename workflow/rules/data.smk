# From a folder of photos to tables, folds and the image cache.


rule download_data:
    "Download the competition's data to data_root with the kaggle client."
    input:
        require_competition_data,
    log:
        f"{RESULTS}/logs/download_data.log",
    conda:
        f"{ENVS}/light.yaml"
    params:
        folder=untracked(DATA),
    shell:
        "python -m carpose.kaggle download {params.folder:q} 2>&1 | tee {log}"


# On a cluster these run on the machine of Snakemake, because compute nodes may have no network.
localrules:
    download_data,
    submit,


if DEMO:

    rule demo_data:
        "Render demo data in the competition's layout; the true cars of the test photos go to another file."
        input:
            [config["demo"][key] for key in ("poses_from", "car_model_ids") if config["demo"].get(key)],
        output:
            [f"{DATA}/{file}" for file in DATA_FILES],
            truth=f"{SHARED}/demo_truth.csv",
            identity=f"{SHARED}/demo_identity.txt",
        log:
            f"{SHARED}/logs/demo_data.log",
        conda:
            f"{ENVS}/light.yaml"
        threads: workflow.resource_settings.cores or 2
        resources:
            **stage_resources("small"),
        params:
            folder=untracked(DATA),
            demo=settings(Demo, config["demo"]),
        shell:
            "python -m carpose.synth --output {params.folder:q} --truth-output {output.truth}"
            " --identity-output {output.identity} {params.demo} --jobs {threads} 2>&1 | tee {log}"


rule check_data:
    "Check every photo, mask and label; fail if the data have errors."
    input:
        # Files of data_root are no input: the fingerprint in params tracks them, whatever their path and times.
        [rules.demo_data.output.identity, *(f"{DATA}/{file}" for file in DATA_FILES)]
        if DEMO
        else require_data,
    output:
        images=f"{SHARED}/data/images.parquet",
        labels=f"{SHARED}/data/labels.parquet",
    log:
        f"{SHARED}/logs/check_data.log",
        # Not an output: Snakemake deletes outputs when the check fails, and then the findings are needed.
        findings=f"{SHARED}/data/findings.csv",
    conda:
        f"{ENVS}/light.yaml"
    threads: workflow.resource_settings.cores or 2
    resources:
        **stage_resources("small"),
    params:
        folder=untracked(DATA),
        identity=f"--identity {IDENTITY}" if IDENTITY else "",
        exclude=exclusions(),
        left_out=settings(
            Exclude,
            {
                "images": dict.fromkeys(config["exclude"].get("images", {}), "left out"),
                "max_depth": config["exclude"].get("max_depth", Exclude.max_depth),
                "max_photos": config["exclude"].get("max_photos", Exclude.max_photos),
            },
        ),
    shell:
        "python -m carpose.kaggle check {params.folder:q} --findings {log.findings}"
        " --images {output.images} --labels {output.labels} {params.identity} {params.exclude}"
        " --jobs {threads} 2>&1 | tee {log[0]}"


rule split_folds:
    "Divide the training photos into folds; near-duplicates stay together."
    input:
        images=rules.check_data.output.images,
        labels=rules.check_data.output.labels,
    output:
        f"{SHARED}/data/folds.parquet",
    log:
        f"{SHARED}/logs/split_folds.log",
    conda:
        f"{ENVS}/light.yaml"
    resources:
        **stage_resources("small"),
    params:
        folds=settings(Folds, config["folds"]),
    shell:
        "python -m carpose.data folds --images {input.images} --labels {input.labels} {params.folds}"
        " --output {output} 2>&1 | tee {log}"


rule build_cache:
    "Decode, crop and scale every photo, and write all to a memory-mapped file."
    input:
        images=rules.check_data.output.images,
    output:
        meta=f"{SHARED}/cache/cache.json",
        photos=f"{SHARED}/cache/photos.npy",
    log:
        f"{SHARED}/logs/build_cache.log",
    conda:
        f"{ENVS}/light.yaml"
    threads: workflow.resource_settings.cores or 2
    resources:
        **stage_resources("small"),
    params:
        data=untracked(DATA),
        cache=settings(Cache, config["cache"]),
    shell:
        "python -m carpose.data cache --data {params.data:q} --images {input.images} {params.cache}"
        " --jobs {threads} --output $(dirname {output.meta}) 2>&1 | tee {log}"
