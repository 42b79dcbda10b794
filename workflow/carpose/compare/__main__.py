"""Two runs beside each other: which settings differ, what that is worth, how the losses went.

    python -m carpose.compare results/a results/b --picture compare.png

In: the folders of two finished runs on the same photos and folds. Out: tables on the terminal, and a picture
of all losses. A difference is b − a in mAP out of fold; its 95 % interval is over resampled photos, which are
the same for both runs.
"""

from pathlib import Path

from carpose.core.files import check_outputs, run_main
from carpose.core.options import int_at_least, program
from carpose.evaluation.scores import SAMPLES
from carpose.plots.figures import draw, history_figure
from carpose.report.run import read_run

from .difference import changed_settings, score_differences


def main() -> None:
    parser = program("carpose.compare", __doc__)
    parser.add_argument("a", type=Path, help="folder of the first run, such as results/demo")
    parser.add_argument("b", type=Path, help="folder of the second run")
    parser.add_argument("--picture", type=Path, help="PNG of the losses of both")
    parser.add_argument("--samples", type=int_at_least(2), default=SAMPLES, help="resamples of the photos")
    args = parser.parse_args()
    if args.picture:
        check_outputs(args.picture)
    a, b = read_run(args.a), read_run(args.b)
    settings, scores = changed_settings(a.config, b.config), score_differences(a, b, args.samples)
    print(f"a: {args.a}, code {a.code}\nb: {args.b}, code {b.code}\n")
    print("settings that differ:" if len(settings) else "no setting differs")
    if len(settings):
        print(settings.to_string(index=False))
    print("\nmAP out of fold, b − a with its 95 % interval:")
    print(scores.to_string(index=False, float_format="{:.4f}".format, na_rep="–"))
    if args.picture:
        names = [args.a.name, args.b.name] if args.a.name != args.b.name else ["a", "b"]
        histories = {
            f"{name}/{training}": table
            for name, run in zip(names, (a, b), strict=True)
            for training, table in run.histories.items()
        }
        draw(args.picture, lambda: history_figure(histories))
        print(f"\n{args.picture}: losses, learning rates and mAP of all trainings")


if __name__ == "__main__":
    run_main(main)
