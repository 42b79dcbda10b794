"""Results of studies: the metric of every run, the gain of each change over its base, all in one table."""

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

POWER = 0.8  # probability that a true difference as large as the `detectable` one gets a verdict
HELD_OUT = "held_out"  # the set of photos that gains and verdicts are of; scores on others are shown beside
SCORES = {
    HELD_OUT: "mAP, held out",
    "leaderboard": "mAP of mode leaderboard, held out",
    "test": "mAP, test photos (not for the verdict)",
}
LOSSES = """\
Mean losses of the last epoch on the augmented training photos, without loss weights; `loss` is the weighted
sum. Columns that begin with `valid_` are of the validation fold, without augmentation. Losses cannot be
compared where a study changes a loss, a loss weight or the augmentation."""


def compare(
    truth: pd.DataFrame,
    image_ids: Mapping[str, Sequence[str]],
    tables: Mapping[tuple[str, int], pd.DataFrame],
    samples: int,
) -> dict[str, dict]:
    """Variant → its scores by seed and its gains over the base, paired by seed and photo.

    image_ids: name of a set of photos → ImageIds; tables: (variant, seed) → cars; samples: resamples of the
    photos. Of each variant: mAP and gain by seed, of HELD_OUT; photo_error, the standard deviation of the
    mean gain over resamples of the photos, which are the same for all seeds; under the name of each set its
    mAP by seed; leaderboard: mAP of that mode on HELD_OUT, of the cars above the threshold that is best for
    them.
    """
    held_out = list(image_ids[HELD_OUT])
    picks = bootstrap.draw_images(len(held_out), samples, np.random.default_rng(0))
    seeds = sorted({seed for _, seed in tables})
    resampled = {
        run: bootstrap.resampled_scores(truth, table, held_out, picks) for run, table in tables.items()
    }
    by_set, errors = {}, {}
    for variant in dict.fromkeys(variant for variant, _ in tables):
        gains = [resampled[variant, seed] - resampled[BASE, seed] for seed in seeds]
        by_set[variant] = {
            name: [metric.evaluate(truth, tables[variant, seed], ids)["mAP"] for seed in seeds]
            for name, ids in image_ids.items()
        }
        by_set[variant]["leaderboard"] = [
            _leaderboard(truth, tables[variant, seed], held_out) for seed in seeds
        ]
        errors[variant] = float(np.mean(gains, axis=0).std(ddof=1))
    return {
        variant: {
            "mAP": scores[HELD_OUT],
            "gain": np.subtract(scores[HELD_OUT], by_set[BASE][HELD_OUT]).tolist(),
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

    The variance of a mean gain is that between seeds (`seed_error`) plus photo_error². low … high is
    Student's 95 % interval with the degrees of freedom of Welch and Satterthwaite; detectable: the minimum
    detectable effect, a true difference of this size gives an interval without zero in 80 % of cases; p: the
    two-sided p-value of the same statistic; p_holm: adjusted for the number of variants (Holm 1979).
    """
    rows = rows.assign(seeds=rows["gain"].map(len))
    # Variants that predict with the base's networks vary less than trained ones, so they are pooled apart.
    pools = [seed_error(group) for _, group in rows.groupby(["base", "retrained", "seeds"])]
    seed_variance, freedom = pd.concat(pools).loc[rows.index].to_numpy().T
    photo_variance = rows["photo_error"] ** 2
    variance = seed_variance + photo_variance
    denominator = seed_variance**2 / freedom + photo_variance**2 / (rows["photos"] - 1)
    # The denominator is 0 where the cars of all runs are identical.
    freedom = (variance**2 / denominator.where(denominator > 0, 1)).clip(lower=1)
    error = np.sqrt(variance)
    half_width = stats.t.ppf(0.975, freedom) * error
    gain = rows["gain"].map(np.mean)
    p = 2 * stats.t.sf(gain.abs() / error.where(error > 0, np.inf), freedom)
    return rows.assign(
        mAP=rows["mAP"].map(np.mean),
        gain=gain,
        low=gain - half_width,
        high=gain + half_width,
        detectable=half_width + stats.t.ppf(POWER, freedom) * error,
        verdict=np.select([gain > half_width, gain < -half_width], ["gain", "loss"], "inconclusive"),
        p=p,
        p_holm=holm(p),
    )


def holm(p: np.ndarray) -> np.ndarray:
    """(N,) p-values → (N,) adjusted for N tests by Holm's step-down method (1979)."""
    order = np.argsort(p)
    adjusted = np.empty(len(p))
    adjusted[order] = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)).clip(max=1)
    return adjusted


def seed_error(group: pd.DataFrame) -> pd.DataFrame:
    """Variants of one base with mAP and gain by seed → for each the variance of its mean gain between seeds,
    and its degrees of freedom.

    Three seeds are too few to estimate a variance, so it is pooled over all variants: an analysis of variance
    with the seeds as blocks and the base as one more variant. With a single variant it is the paired t-test.
    """
    scores = np.stack(group["mAP"])
    scores = np.vstack([scores[0] - group["gain"].iloc[0], scores])
    residual = scores - scores.mean(axis=0) - scores.mean(axis=1, keepdims=True) + scores.mean()
    freedom = (scores.shape[0] - 1) * (scores.shape[1] - 1)
    variance = 2 * (residual**2).sum() / freedom / scores.shape[1]
    return pd.DataFrame({"variance": variance, "freedom": freedom}, index=group.index)


def read_table(paths: list[Path]) -> pd.DataFrame:
    """The JSON files of `measure` → one row per variant, with the columns of `judge`; a base that several
    studies share has one row.

    Raises UserError where a file is not of `measure`, or two studies have different bases of the same name.
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
    """Reads a file of `measure`. Raises UserError where it is invalid."""
    try:
        content = load_json(path.read_text(encoding="utf-8"))
        outdated = content["variants"][BASE].get(HELD_OUT) != content["variants"][BASE]["mAP"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: not a result of `carpose.studies measure` ({error!r})") from error
    if outdated:
        text = "an old version measured its gains on the test photos as well; measure it again"
        raise UserError(f"{path}: {text} (snakemake -s workflow/studies.smk … -R measure)")
    return content


def _check_bases(results: Mapping[Path, dict]) -> None:
    """Raises UserError where studies with a base of one name trained or measured it differently: their gains
    could not be compared, and the table would show only one of the bases."""
    bases: dict[str, tuple[Path, dict]] = {}
    for path, content in results.items():
        try:
            name, identity = content["base"], dict(_identity(content))
        except (KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{path}: not a result of `carpose.studies measure` ({error!r})") from error
        first_path, expected = bases.setdefault(name, (path, identity))
        differ = [key for key, value in identity.items() if value != expected[key]]
        if differ:
            advice = "measure both again with the same runs, or make a table of each"
            text = f"the base {name} is not the same in both: {', '.join(differ)} differ"
            raise UserError(f"{first_path} and {path}: {text}; {advice}")


def _identity(content: dict) -> Iterator[tuple[str, object]]:
    """What must be the same for a base that studies share, each with its name in the error message."""
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
    """One row per variant of a file of `measure`."""
    try:
        return [
            {
                "study": "" if variant == BASE else content["study"],
                "variant": variant,
                "base": content["base"],
                "change": text_of(entry["change"]) or f"(base: {content['base']})",
                "photos": content["photos"][HELD_OUT],
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
    """The change as in the study's file, on one line."""
    texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in change.items()}
    return ", ".join(f"{key}: {text}" for key, text in texts.items())


def markdown(table: pd.DataFrame) -> str:
    """Two Markdown tables: scores, differences with their intervals and verdicts; then the losses."""
    scores = [name for name in SCORES if name in table]
    code = ", ".join(sorted({version for versions in table["code"] for version in versions}))
    seeds = ", ".join(map(str, sorted(set(table["seeds"].astype(int)))))
    head = ["study", "changed", *(SCORES[name] for name in scores), "difference in mAP [95 %]"]
    head += ["minimum detectable effect", "verdict", "p", "p (Holm)", "CPU min per training"]
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
    title = f"{seeds} seeds, measured on {table['photos'].max()} held-out photos, code {code}."
    return "\n".join([title, "", *_table(head, rows), "", LOSSES, "", *_table(loss_head, loss_rows)]) + "\n"


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]


def _number(value: float, sign: str = "") -> str:
    return "" if pd.isna(value) else f"{value:{sign}.4f}".replace("0.", ".", 1)
