"""What studies found: the metric of every run, what each change gains over its base, all in one table."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from carpose import metric
from carpose.core.errors import UserError
from carpose.core.keyed import load_json
from carpose.metric import bootstrap

from .plan import BASE

POWER = 0.8  # chance to see a difference as large as the `detectable` one
CHOOSING = "held_out"  # the set of photos that gains are of; others are shown beside it
SCORES = {
    CHOOSING: "mAP, held out",
    "leaderboard": "leaderboard's, held out",
    "test": "mAP, hidden truth (does not choose)",
}
LOSSES = """\
Losses of the last epoch on the augmented training photos, without their weights; `loss` is the weighted sum.
Where a study changes a loss, a weight or the augmentation, they are not on one scale."""


def compare(
    truth: pd.DataFrame,
    image_ids: Mapping[str, Sequence[str]],
    tables: Mapping[tuple[str, int], pd.DataFrame],
    samples: int,
) -> dict[str, dict]:
    """Variant → its mAP by seed and what it gains over the base, paired over seeds and photos.

    image_ids: name of a set of photos → its photos; mAP and gain are of CHOOSING alone. tables: (variant,
    seed) → cars. photo_error: standard deviation of the mean gain over resamples of the photos, the same for
    all seeds, since they are all measured on the same photos. By the name of each set its mAP by seed, and
    `leaderboard`: in that mode of the metric, of CHOOSING, from the threshold on that is best for these cars.
    """
    chosen_on = list(image_ids[CHOOSING])
    picks = bootstrap.draw_images(len(chosen_on), samples, np.random.default_rng(0))
    seeds = sorted({seed for _, seed in tables})
    drawn = {run: bootstrap.resampled_scores(truth, table, chosen_on, picks) for run, table in tables.items()}
    by_set, errors = {}, {}
    for variant in dict.fromkeys(variant for variant, _ in tables):
        gains = [drawn[variant, seed] - drawn[BASE, seed] for seed in seeds]
        by_set[variant] = {
            name: [metric.evaluate(truth, tables[variant, seed], ids)["mAP"] for seed in seeds]
            for name, ids in image_ids.items()
        }
        by_set[variant]["leaderboard"] = [
            _leaderboard(truth, tables[variant, seed], chosen_on) for seed in seeds
        ]
        errors[variant] = float(np.mean(gains, axis=0).std(ddof=1))
    return {
        variant: {
            "mAP": scores[CHOOSING],
            "gain": np.subtract(scores[CHOOSING], by_set[BASE][CHOOSING]).tolist(),
            "photo_error": errors[variant],
            **scores,
        }
        for variant, scores in by_set.items()
    }


def _leaderboard(truth: pd.DataFrame, table: pd.DataFrame, image_ids: Sequence[str]) -> float:
    truth, table = (cars[cars["ImageId"].isin(image_ids)] for cars in (truth, table))
    kept = table[table["score"] >= metric.best_threshold(truth, table, "leaderboard")]
    return metric.evaluate(truth, kept, image_ids, "leaderboard")["mAP"]


def judge(rows: pd.DataFrame) -> pd.DataFrame:
    """Variants with mAP and gain by seed, photo_error, photos, base and retrained → their mean mAP and gain,
    low, high, detectable, verdict (gain, loss or inconclusive), p and p_holm.

    The squared error of a mean gain is that of other seeds (`seed_error`) plus photo_error². The 95 %
    interval is Student's with the degrees of freedom of Welch and Satterthwaite; `detectable` is the
    difference that such intervals leave apart from zero in 80 % of all cases. p: the chance of a gain or loss
    this large where there is none, by the same statistic; p_holm: of any among all these variants (Holm).
    """
    rows = rows.assign(seeds=rows["gain"].map(len))
    # A variant that predicts with its base's networks varies less than those that are trained.
    pools = [seed_error(group) for _, group in rows.groupby(["base", "retrained", "seeds"])]
    of_seeds, freedom = pd.concat(pools).loc[rows.index].to_numpy().T
    of_photos = rows["photo_error"] ** 2
    square = of_seeds + of_photos
    shares = of_seeds**2 / freedom + of_photos**2 / (rows["photos"] - 1)
    freedom = (square**2 / shares.where(shares > 0, 1)).clip(lower=1)  # runs that are alike to the last car
    error = np.sqrt(square)
    reach = stats.t.ppf(0.975, freedom) * error
    gain = rows["gain"].map(np.mean)
    p = 2 * stats.t.sf(gain.abs() / error.where(error > 0, np.inf), freedom)
    return rows.assign(
        mAP=rows["mAP"].map(np.mean),
        gain=gain,
        low=gain - reach,
        high=gain + reach,
        detectable=reach + stats.t.ppf(POWER, freedom) * error,
        verdict=np.select([gain > reach, gain < -reach], ["gain", "loss"], "inconclusive"),
        p=p,
        p_holm=holm(p),
    )


def holm(p: np.ndarray) -> np.ndarray:
    """p-values of several questions → each adjusted for how many were asked; of a single one the same."""
    order = np.argsort(p)
    adjusted = np.empty(len(p))
    adjusted[order] = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)).clip(max=1)
    return adjusted


def seed_error(group: pd.DataFrame) -> pd.DataFrame:
    """Variants of one base with mAP and gain by seed → for each the squared error of its mean gain that
    comes from the seeds, and its degrees of freedom.

    Three seeds say little of their own spread, so it is taken from all variants together: an analysis of
    variance with the seeds as blocks and the base as one more variant. With a single variant it is the
    paired t-test.
    """
    runs = np.stack(group["mAP"])
    runs = np.vstack([runs[0] - group["gain"].iloc[0], runs])
    residual = runs - runs.mean(axis=0) - runs.mean(axis=1, keepdims=True) + runs.mean()
    freedom = (runs.shape[0] - 1) * (runs.shape[1] - 1)
    square = 2 * (residual**2).sum() / freedom / runs.shape[1]
    return pd.DataFrame({"square": square, "freedom": freedom}, index=group.index)


def read_table(paths: list[Path]) -> pd.DataFrame:
    """The JSONs of `measure` → one row per variant, judged; a base that studies share stands there once.

    Raises UserError where a file is no result, or a base of one study is not that of another.
    """
    results = {path: _read(path) for path in paths}
    _check_bases(results)
    table = pd.DataFrame([row for path, content in results.items() for row in _rows(path, content)])
    is_base = table["variant"] == BASE
    bases = table[is_base].drop_duplicates("base").drop(columns=["gain", "photo_error"])
    bases = bases.assign(seeds=bases["mAP"].map(len), mAP=bases["mAP"].map(np.mean))
    judged = judge(table[~is_base])
    by_base = [table[table["base"] == base] for base in bases["base"] for table in (bases, judged)]
    return pd.concat(by_base, ignore_index=True)


def _read(path: Path) -> dict:
    """A result of `measure`. Raises UserError."""
    try:
        content = load_json(path.read_text())
        older = content["variants"][BASE].get(CHOOSING) != content["variants"][BASE]["mAP"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: not a result of `carpose.studies measure` ({error!r})") from error
    if older:
        text = "was measured on hidden truth, too, which from now on does not choose; measure it again"
        raise UserError(f"{path}: {text} (snakemake -s workflow/studies.smk … -R measure)")
    return content


def _check_bases(results: Mapping[Path, dict]) -> None:
    """Raises UserError where studies of one base did not train, or measure, the same: their variants gain
    over different things, and one of the bases alone would stand in the table."""
    bases: dict[str, tuple[Path, dict]] = {}
    for path, content in results.items():
        try:
            name, identity = content["base"], dict(_identity(content))
        except (KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{path}: not a result of `carpose.studies measure` ({error!r})") from error
        first_path, expected = bases.setdefault(name, (path, identity))
        differ = [key for key, value in identity.items() if value != expected[key]]
        if differ:
            advice = "measure them again from the same runs, or make a table of each"
            text = f"the base {name} is not the same in both: {', '.join(differ)} differ"
            raise UserError(f"{first_path} and {path}: {text}; {advice}")


def _identity(content: dict) -> Iterator[tuple[str, object]]:
    """What must be the same of a base that studies share, by what a message calls it."""
    base = content["variants"][BASE]
    for key, words in (
        ("seed", "seeds"),
        ("train_config", "digests of the training configuration"),
        ("data", "data digests"),
    ):
        yield words, [run.get(key) for run in base["runs"]]
    yield "photos to measure on", (content["photos"], content.get("photos_digest"))
    yield "scores", [np.round(base[name], 9).tolist() for name in content["photos"]]


def _rows(path: Path, content: dict) -> list[dict]:
    """One row per variant of a result."""
    try:
        return [
            {
                "study": "" if variant == BASE else content["study"],
                "variant": variant,
                "base": content["base"],
                "change": text_of(entry["change"]) or f"(base: {content['base']})",
                "photos": content["photos"][CHOOSING],
                **{name: entry[name] for name in ("gain", "photo_error", "retrained", "mAP")},
                **{name: float(np.mean(entry[name])) for name in SCORES if name in entry},
                **pd.DataFrame([run["losses"] for run in entry["runs"]]).mean().add_prefix("loss."),
                "cpu_minutes": float(np.mean([run["cpu_minutes"] for run in entry["runs"]])),
                "code": sorted({run["code"] for run in entry["runs"]}),
            }
            for variant, entry in content["variants"].items()
        ]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: not a result of `carpose.studies measure` ({error!r})") from error


def text_of(change: dict) -> str:
    """As in the study's file, on one line."""
    texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in change.items()}
    return ", ".join(f"{key}: {text}" for key, text in texts.items())


def markdown(table: pd.DataFrame) -> str:
    """The table to read: scores, differences with their intervals and verdicts; then the losses."""
    scores = [name for name in SCORES if name in table]
    code = ", ".join(sorted({version for versions in table["code"] for version in versions}))
    seeds = ", ".join(map(str, sorted(set(table["seeds"].astype(int)))))
    head = ["study", "changed", *(SCORES[name] for name in scores), "difference [95 %]"]
    head += ["minimum detectable effect", "verdict", "p", "p (Holm)", "CPU min"]
    losses = [name for name in table if name.startswith("loss.")]
    loss_head = ["study", "changed", *(name.removeprefix("loss.") for name in losses)]
    rows, loss_rows = [], []
    for row in table.to_dict("records"):
        cells = [row["study"], row["change"], *(_number(row[name]) for name in scores)]
        gain, low, high = (_number(row[name], "+") for name in ("gain", "low", "high"))
        difference = [f"{gain} [{low}, {high}]", _number(row["detectable"]), row["verdict"]]
        difference += [_number(row[name]) for name in ("p", "p_holm")]
        rows.append([*cells, *(difference if row["study"] else [""] * 5), f"{row['cpu_minutes']:.1f}"])
        values = ("" if pd.isna(row[name]) else f"{row[name]:.3g}" for name in losses)
        loss_rows.append([row["study"], row["change"], *values])
    title = f"{seeds} seeds, {table['photos'].max()} photos to measure on, code {code}."
    return "\n".join([title, "", *_table(head, rows), "", LOSSES, "", *_table(loss_head, loss_rows)]) + "\n"


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]


def _number(value: float, sign: str = "") -> str:
    return "" if pd.isna(value) else f"{value:{sign}.4f}".replace("0.", ".", 1)
