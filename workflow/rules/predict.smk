# One job predicts with all folds of a model, so that the libraries are imported once.


def checkpoints(wildcards):
    """All folds of the model, or of every model, one after the other, where their maps are averaged."""
    models = RECIPES if wildcards.model == "maps" else [wildcards.model]
    pattern = f"{RESULTS}/round{wildcards.round}/{{model}}/fold{{fold}}/model.pt"
    return expand(pattern, model=models, fold=FOLDS)


def prediction_options(settings):
    """Keys of `predict:` → the options of carpose.predict; a switch that is off is left out, an option of
    several numbers is given once for each row of them."""
    options = []
    for key, value in settings.items():
        name = f"--{key.replace('_', '-')}"
        if isinstance(value, list):
            options += [f"{name} {' '.join(f'{number:f}' for number in row)}" for row in value]
        elif value is not False:
            options.append(name if value is True else f"{name} {plain(value)}")
    return " ".join(options)


rule predict:
    "Out-of-fold and test predictions of one model of one round."
    input:
        models=checkpoints,
        cache=rules.build_cache.output[0],
        photos=rules.build_cache.output[1],
        images=rules.check_data.output.images,
        folds=rules.split_folds.output[0],
    output:
        oof=f"{RESULTS}/round{{round}}/{{model}}/oof.parquet",
        test=f"{RESULTS}/round{{round}}/{{model}}/test.parquet",
        test_folds=f"{RESULTS}/round{{round}}/{{model}}/test_folds.parquet",
    log:
        f"{RESULTS}/logs/predict/round{{round}}-{{model}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/predict/round{{round}}-{{model}}.tsv"
    conda:
        f"{ENVS}/torch.yaml"
    threads: threads_of("predict")
    resources:
        **asks("predict"),
        workers=RUNNING["workers"],
        graphs=RUNNING["graphs"],
        gpu=lambda wildcards: min(
            1, max(GPUS.values()) if wildcards.model == "maps" else GPUS[wildcards.model]
        ),
    params:
        checkpoints=lambda wildcards, input: " ".join(
            f"--checkpoints {' '.join(input.models[start : start + len(FOLDS)])}"
            for start in range(0, len(input.models), len(FOLDS))
        ),
        settings=prediction_options(config["predict"]),
        torch_threads=lambda wildcards: RECIPES.get(wildcards.model, config["train"]).get("threads", 1),
    shell:
        "python -m carpose.predict {params.checkpoints} --cache $(dirname {input.cache})"
        " --images {input.images} --folds {input.folds} --oof {output.oof} --test {output.test}"
        " --test-folds {output.test_folds} {params.settings} --threads {params.torch_threads}"
        " --workers {resources.workers} --gpus {resources.gpu} $( (({resources.graphs})) || echo --no-graphs )"
        " 2>&1 | tee {log}"
