"""Memory of a training process with 100 photos against that with 4262, at the demo's size.

Both train whole epochs, at least so many steps, on a sparse cache, so that any disk will do. A process grows
by some MB in its first thousand steps, whatever its photos: the default gives both as many.

    python -m benchmarks.memory
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

from benchmarks import measure
from carpose.recipe import command_line, recipe_of


def peak(process: subprocess.Popen) -> dict[str, float]:
    """Most MB that a process held: in all, and of its own (without pages of files, which are shared)."""
    most = {"RssAnon": 0.0, "VmHWM": 0.0}
    while process.poll() is None:
        try:
            lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
        except OSError:
            break
        for name in most:
            value = next((int(line.split()[1]) / 1024 for line in lines if line.startswith(name)), 0.0)
            most[name] = max(most[name], value)
        time.sleep(0.05)
    return most


def main() -> None:
    parser = measure.begin(__doc__.splitlines()[0])
    parser.add_argument("--photos", type=int, nargs="+", default=[100, 4262])
    parser.add_argument("--steps", type=int, default=1064, help="at least")
    parser.add_argument("--model", default="hourglass")
    args = parser.parse_args()
    config = yaml.safe_load((measure.ROOT / "config.yaml").read_text())
    recipe = recipe_of(config, args.model)[0] | {"retrain_epochs": 1}
    figures = {}
    for count in args.photos:
        with tempfile.TemporaryDirectory() as folder:
            folder = Path(folder)
            measure.made_up_data(folder, count, 8, [-0.02, 0.5, 1.02, 0.92], 0.125)
            per_epoch = max((count - 4) // recipe["batch_size"], 1)
            epochs = -(-args.steps // per_epoch)
            words = [sys.executable, "-m", "carpose.train", "--cache", folder / "cache"]
            words += [f"--{name}={folder / name}.parquet" for name in ("images", "labels", "folds")]
            words += ["--fold", 1, "--output", folder / "model.pt", "--history", folder / "history.csv"]
            words += ["--state", folder / "state.pt", "--validate-every", 0, "--gpus", 0]
            words += command_line({**recipe, "epochs": epochs}).split()
            process = subprocess.Popen(
                [*map(str, words)], env=measure.environment(), stdout=subprocess.DEVNULL
            )
            most = peak(process)
            figures[str(count)] = {
                "steps": epochs * per_epoch,
                "own memory MB": round(most["RssAnon"], 1),
                "with shared pages of files MB": round(most["VmHWM"], 1),
            }
    few, many = (figures[str(count)]["own memory MB"] for count in (args.photos[0], args.photos[-1]))
    figures["own memory, many / few"] = round(many / few, 3)
    measure.finish(args, figures)


if __name__ == "__main__":
    main()
