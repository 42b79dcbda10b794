# The table of results, pictures and the error analysis.

PICTURES = [f"{RESULTS}/pictures/{name}.png" for name in ("predictions", "history", "evaluation")]


rule evaluate:
    "Print and write the competition's metric of every model, every round and the fusion."
    input:
        labels=rules.check_data.output.labels,
        folds=rules.split_folds.output[0],
        oof=members(range(ROUNDS), "oof"),
        test=members(range(ROUNDS), "test"),
        fused_oof=rules.fit_fusion.output.fused,
        fused_test=rules.fuse.output[0],
        images=rules.check_data.output.images,
        truth=TRUTH,
    output:
        table=report(f"{RESULTS}/evaluation.csv", caption="../report/evaluation.rst", category="Scores"),
        bands=report(f"{RESULTS}/evaluation_bands.csv", caption="../report/bands.rst", category="Scores"),
    log:
        f"{RESULTS}/logs/evaluate.log",
    conda:
        f"{ENVS}/light.yaml"
    resources:
        **stage_resources("small"),
    params:
        members=f"--members fused={rules.fit_fusion.output.fused} {name_path_args(range(ROUNDS), 'oof')}",
        truth=lambda wildcards, input: (
            f"--test-truth {input.truth} --images {input.images} --test-members fused={input.fused_test}"
            f" {name_path_args(range(ROUNDS), 'test')}"
            if input.truth
            else ""
        ),
    shell:
        "python -m carpose.evaluation --labels {input.labels} --folds {input.folds}"
        " {params.members} {params.truth}"
        " --output {output.table} --bands-output {output.bands} 2>&1 | tee {log}"


rule draw:
    "Draw predictions on photos and from above, the learning curves, and a bar chart of the evaluation."
    input:
        cars=rules.fuse.output[0],
        images=rules.check_data.output.images,
        table=rules.evaluate.output.table,
        histories=[path.replace("model.pt", "history.csv") for path in checkpoints(range(ROUNDS))],
        truth=TRUTH,
    output:
        predictions=report(PICTURES[0], caption="../report/predictions.rst", category="Photos"),
        history=report(PICTURES[1], caption="../report/history.rst", category="Trainings"),
        evaluation=report(PICTURES[2], caption="../report/evaluation_bars.rst", category="Scores"),
    log:
        f"{RESULTS}/logs/draw.log",
    conda:
        f"{ENVS}/light.yaml"
    resources:
        **stage_resources("small"),
    params:
        data=untracked(DATA),
        truth=lambda wildcards, input: f"--truth {input.truth}" if input.truth else "",
        histories=histories(range(ROUNDS)),
    shell:
        "(python -m carpose.plots predictions --lenient --data {params.data:q} --images {input.images}"
        " --cars {input.cars} {params.truth} --output {output.predictions}"
        " && python -m carpose.plots history --lenient --histories {params.histories} --output {output.history}"
        " && python -m carpose.plots evaluation --lenient --table {input.table} --output {output.evaluation})"
        " 2>&1 | tee {log}"


ANALYSIS = {
    group: [f"{RESULTS}/analysis/{name}" for name in names]
    for group, names in {
        "tables": [
            f"{t}.csv"
            for t in ("groups", "thresholds", "oracles", "scores", "depth", "worst", "member_pairs")
        ],
        "pictures": [f"{p}.png" for p in ("groups", "causes", "calibration", "worst")],
        "fields": ["receptive_field.csv", "receptive_field.png"],
    }.items()
}


rule analyse_errors:
    "Analyse the out-of-fold errors of the fusion and of every model and round."
    input:
        labels=rules.check_data.output.labels,
        images=rules.check_data.output.images,
        folds=rules.split_folds.output[0],
        oof=members(range(ROUNDS), "oof"),
        fused=rules.fit_fusion.output.fused,
    output:
        ANALYSIS["tables"],
        ANALYSIS["pictures"],
    log:
        f"{RESULTS}/logs/analyse_errors.log",
    conda:
        f"{ENVS}/light.yaml"
    resources:
        **stage_resources("small"),
    params:
        data=untracked(DATA),
        members=f"--members fused={rules.fit_fusion.output.fused} {name_path_args(reversed(range(ROUNDS)), 'oof')}",
        folder=untracked(f"{RESULTS}/analysis"),
    shell:
        "python -m carpose.analysis errors --lenient --labels {input.labels} --images {input.images}"
        " --folds {input.folds} --data {params.data:q} {params.members} --output {params.folder}"
        " 2>&1 | tee {log}"


rule measure_receptive_fields:
    "Measure the receptive field of each model's output cells and compare it with the size of near cars."
    input:
        models=[f"{RESULTS}/round0/{model}/fold0/model.pt" for model in MODELS],
        labels=rules.check_data.output.labels,
        cache=rules.build_cache.output.meta,
        photos=ancient(rules.build_cache.output.photos),
    output:
        table=ANALYSIS["fields"][0],
        picture=ANALYSIS["fields"][1],
    log:
        f"{RESULTS}/logs/receptive_fields.log",
    conda:
        f"{ENVS}/torch.yaml"
    threads: threads_of("predict")
    resources:
        **stage_resources("predict"),
    shell:
        "python -m carpose.analysis receptive-field --lenient --checkpoints {input.models} --labels {input.labels}"
        " --cache $(dirname {input.cache}) --threads {threads} --output {output.table}"
        " --picture {output.picture} 2>&1 | tee {log}"


rule write_report:
    "One HTML page about the run: scores, gains, trainings, errors, cost, configuration, photos."
    input:
        rules.evaluate.output,
        ANALYSIS["tables"],
        histories=[path.replace("model.pt", "history.csv") for path in checkpoints(range(ROUNDS))],
        submission=rules.write_submission.output,
        pseudo=[f"{RESULTS}/round{r}/pseudo.json" for r in range(ROUNDS - 1)],
        truth=TRUTH,
    output:
        report(f"{RESULTS}/report.html", caption="../report/page.rst", category="The run on one page"),
    log:
        f"{RESULTS}/logs/write_report.log",
    conda:
        f"{ENVS}/light.yaml"
    resources:
        **stage_resources("small"),
    params:
        run=untracked(RESULTS),
    shell:
        "python -m carpose.report {params.run} --output {output} 2>&1 | tee {log}"
