"""The metric against the literal loop of the competition's public script, on real labels and predictions.

python -m benchmarks.metric ../shared/real
"""

import time
from pathlib import Path

import numpy as np

from benchmarks import baselines, measure
from carpose import kaggle, metric


def main() -> None:
    parser = measure.begin(__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="folder with train.csv and val_predictions.csv")
    args = parser.parse_args()
    truth, _ = kaggle.read_labels(args.data / "train.csv")
    predictions, images = kaggle.read_submission(args.data / "val_predictions.csv")
    truth = truth[truth["ImageId"].isin(images)]
    start = time.process_time()
    ap, _ = baselines.metric(truth, predictions, images)
    slow = time.process_time() - start
    ours = metric.evaluate(truth, predictions, images)
    fast = measure.alternately({"": lambda: metric.evaluate(truth, predictions, images)}, 30)[""]
    measure.finish(
        args,
        {
            "images, predictions, cars": [len(images), len(predictions), len(truth)],
            "loop s": round(slow, 2),
            "ours ms": round(1e3 * fast, 1),
            "times faster": round(slow / fast),
            "greatest difference of an AP": float(np.abs(np.array(ap) - ours["AP"]).max()),
        },
    )


if __name__ == "__main__":
    main()
