# One job predicts with the networks of all folds of a model, so that the libraries are imported only once.


rule predict:
    "Out-of-fold and test predictions of one model of one round."
    input:
        models=expand(f"{RESULTS}/round{{{{round}}}}/{{{{model}}}}/fold{{fold}}/model.pt", fold=FOLDS),
        cache=rules.build_cache.output.meta,
        photos=ancient(rules.build_cache.output.photos),
        images=rules.check_data.output.images,
        labels=rules.check_data.output.labels,
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
        **stage_resources("predict"),
        gpu=lambda wildcards: min(1, GPUS[wildcards.model]),
    params:
        # The number of GPUs is read from the resources, because --resources gpu=N lowers it to the available ones.
        predict=settings(Predict, config["predict"]),
        threads=lambda wildcards: f"--threads {train_keys(wildcards).get('threads', TrainConfig.threads)}",
        running=lambda wildcards, input: command_line(
            Running, {key: config["running"][key] for key in ("workers", "cuda_graphs")}
        ),
    shell:
        "python -m carpose.predict dataset --checkpoints {input.models} --cache $(dirname {input.cache})"
        " --images {input.images} --labels {input.labels} --folds {input.folds} --oof {output.oof}"
        " --test {output.test} --test-folds {output.test_folds} {params.predict} {params.threads}"
        " --gpus {resources.gpu} {params.running} 2>&1 | tee {log}"
