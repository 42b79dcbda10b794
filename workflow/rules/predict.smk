# One job predicts with all folds of a model, so that the libraries are imported once.


rule predict:
    "Out-of-fold and test predictions of one model of one round."
    input:
        models=expand(f"{RESULTS}/round{{{{round}}}}/{{{{model}}}}/fold{{fold}}/model.pt", fold=FOLDS),
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
    threads: threads_of("predict")
    resources:
        **asks("predict"),
        gpu=GPUS,
    params:
        threshold=config["predict"]["threshold"],
        batch_size=config["predict"]["batch_size"],
        flip="--flip" if config["predict"]["flip"] else "",
        torch_threads=lambda wildcards: RECIPES[wildcards.model].get("threads", 1),
        workers=config["running"]["workers"],
        gpus=GPUS,
    shell:
        "python -m carpose.predict --checkpoints {input.models} --cache $(dirname {input.cache})"
        " --images {input.images} --folds {input.folds} --oof {output.oof} --test {output.test}"
        " --test-folds {output.test_folds} --threshold {params.threshold} --batch-size {params.batch_size}"
        " {params.flip} --threads {params.torch_threads} --workers {params.workers} --gpus {params.gpus}"
        " 2>&1 | tee {log}"
