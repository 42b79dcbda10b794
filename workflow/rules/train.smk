# One rule for all rounds: round 0 learns from labels, round r also from the pseudo labels of round r−1.


rule fetch_weights:
    "Fetch the published weights of a backbone from the hub."
    output:
        f"{RESULTS}/weights/{{published}}.safetensors",
    log:
        f"{RESULTS}/logs/weights/{{published}}.log",
    conda:
        f"{ENVS}/torch.yaml"
    params:
        network=lambda wildcards: command_line(
            TrainConfig,
            {key: getattr(PUBLISHED_WEIGHTS[wildcards.published], key) for key in ("backbone", "width")},
        ),
    shell:
        "python -m carpose.network.weights {params.network} --output {output} 2>&1 | tee {log}"


# On a cluster it runs on the machine of Snakemake, because compute nodes may have no network.
localrules:
    fetch_weights,


rule train:
    "Train one model on one fold. After an interruption it continues from its state file."
    input:
        unpack(from_round_before),
        cache=rules.build_cache.output.meta,
        photos=ancient(rules.build_cache.output.photos),
        images=rules.check_data.output.images,
        labels=rules.check_data.output.labels,
        folds=rules.split_folds.output[0],
        weights=pretrained_weights,
    output:
        model=f"{RESULTS}/round{{round}}/{{model}}/fold{{fold}}/model.pt",
        history=f"{RESULTS}/round{{round}}/{{model}}/fold{{fold}}/history.csv",
    log:
        f"{RESULTS}/logs/train/round{{round}}-{{model}}-fold{{fold}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/train/round{{round}}-{{model}}-fold{{fold}}.tsv"
    # Long trainings first: one that starts last would leave the other cores idle.
    priority: lambda wildcards: train_keys(wildcards).get("epochs", 0)
    conda:
        f"{ENVS}/torch.yaml"
    threads: lambda wildcards: threads_of("train") * processes(wildcards)
    resources:
        **stage_resources("train", processes),
        gpu=lambda wildcards: GPUS[wildcards.model],
    params:
        # The number of GPUs is read from the resources, because --resources gpu=N lowers it to the available ones.
        # train_config depends on wildcards only, so Snakemake tracks its changes; functions of input are untracked.
        train_config=lambda wildcards: command_line(TrainConfig, train_keys(wildcards)),
        from_round_before=lambda wildcards, input: " ".join(
            f"--{name.replace('_', '-')} {input[name]}"
            for name in ("pseudo", "start_weights")
            if name in input.keys()
        ),
        running=untracked(running_options()),
        events=lambda wildcards, input: (
            f"--events {RESULTS}/tensorboard/round{wildcards.round}-{wildcards.model}-fold{wildcards.fold}"
        ),
        # Not an output: Snakemake would delete it before the job starts, but a killed training continues from it.
        state=f"{RESULTS}/round{{round}}/{{model}}/fold{{fold}}/state.pt",
    shell:
        # On SIGTERM (a cancelled job, a drained node) Python saves its state; bash ignores the signal and waits.
        # `|| true`: a log that cannot be written does not fail the training.
        "trap '' TERM; python -m carpose.train --name round{wildcards.round}/{wildcards.model}/fold{wildcards.fold}"
        " --cache $(dirname {input.cache}) --images {input.images} --labels {input.labels}"
        " --folds {input.folds} --fold {wildcards.fold} {params.from_round_before} --output {output.model}"
        " --history {output.history} --state {params.state} --gpus {resources.gpu}"
        " {params.running} {params.events} {params.train_config} 2>&1 | {{ tee -a {log} || true; }}"
