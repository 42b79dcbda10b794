# Training and retraining are one rule: round 0 learns from labels, round r also from round r−1.


def fetched_weights(wildcards):
    """The backbone's published weights, where the recipe begins with them."""
    return f"{RESULTS}/weights/{wildcards.model}.safetensors" if wildcards.model in FETCHED else []


def from_round_before(wildcards):
    """Pseudo labels and, for a warm start, the weights of the round before."""
    before = int(wildcards.round) - 1
    if before < 0:
        return {}
    files = {"pseudo": f"{RESULTS}/round{before}/pseudo.parquet"}
    if RECIPES[wildcards.model].get("retrain_start", "warm") == "warm":
        files["start"] = f"{RESULTS}/round{before}/{wildcards.model}/fold{wildcards.fold}/model.pt"
    return files


rule fetch_weights:
    "Fetch the published weights of one model's backbone from the hub, where the compute nodes cannot."
    output:
        f"{RESULTS}/weights/{{model}}.safetensors",
    log:
        f"{RESULTS}/logs/weights/{{model}}.log",
    conda:
        f"{ENVS}/torch.yaml"
    params:
        backbone=lambda wildcards: RECIPES[wildcards.model]["backbone"],
        width=lambda wildcards: RECIPES[wildcards.model].get("width", 1.0),
    shell:
        "python -m carpose.weights --backbone {params.backbone} --width {params.width} --output {output}"
        " 2>&1 | tee {log}"


# On a cluster it runs beside Snakemake itself.
localrules:
    fetch_weights,


rule train:
    "Train one model on one fold. Interrupted, it goes on from its state file."
    input:
        unpack(from_round_before),
        cache=rules.build_cache.output[0],
        photos=rules.build_cache.output[1],
        images=rules.check_data.output.images,
        labels=rules.check_data.output.labels,
        folds=rules.split_folds.output[0],
        weights=fetched_weights,
    output:
        model=f"{RESULTS}/round{{round}}/{{model}}/fold{{fold}}/model.pt",
        history=f"{RESULTS}/round{{round}}/{{model}}/fold{{fold}}/history.csv",
    log:
        f"{RESULTS}/logs/train/round{{round}}-{{model}}-fold{{fold}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/train/round{{round}}-{{model}}-fold{{fold}}.tsv"
    # The longest first: a long training that starts last leaves the other cores idle.
    priority: lambda wildcards: RECIPES[wildcards.model].get("epochs" if wildcards.round == "0" else "retrain_epochs", 0)
    conda:
        f"{ENVS}/torch.yaml"
    threads: lambda wildcards: threads_of("train") * processes(wildcards)
    resources:
        **asks("train", processes),
        **RUNNING,
        gpu=lambda wildcards: GPUS[wildcards.model],
    params:
        # Of the wildcards alone: Snakemake does not record a param made from `input`, so that a change
        # of it would train nothing anew.
        recipe=lambda wildcards: command_line(
            RECIPES[wildcards.model]
            | ({"pretrained": fetched_weights(wildcards)} if wildcards.model in FETCHED else {})
        ),
        later=lambda wildcards, input: " ".join(
            f"--{name} {input[name]}" for name in ("pseudo", "start") if name in input.keys()
        ),
        # Not an output: Snakemake deletes outputs before a job starts, and this is what survives a kill.
        state=f"{RESULTS}/round{{round}}/{{model}}/fold{{fold}}/state.pt",
        events=f"{RESULTS}/tensorboard/round{{round}}-{{model}}-fold{{fold}}",
    shell:
        # SIGTERM (a job cancelled, a node drained) is for Python: bash and tee wait while it saves its state.
        # A log that cannot be written loses no training.
        "trap '' TERM; python -m carpose.train --name round{wildcards.round}/{wildcards.model}/fold{wildcards.fold}"
        " --cache $(dirname {input.cache}) --images {input.images} --labels {input.labels}"
        " --folds {input.folds} --fold {wildcards.fold} {params.later} --output {output.model}"
        " --history {output.history} --state {params.state} --gpus {resources.gpu}"
        " --workers {resources.workers} --validate-every {resources.validate_every}"
        " --save-minutes {resources.save_minutes} $( (({resources.tensorboard})) && echo --tensorboard {params.events})"
        " $( (({resources.graphs})) || echo --no-graphs )"
        " {params.recipe} 2>&1 | {{ tee -a {log} || true; }}"
