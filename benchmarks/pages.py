"""What it costs to give freed memory back to the system: steps and predictions with and without keeping it.

Each case is a process of its own, since it depends on how the heap has grown; those of a pair follow each
other. Float32, one thread. Out: milliseconds on the processor and page faults, of a step or a photo.

    python -m benchmarks.pages
"""

import itertools
import multiprocessing
import resource
import statistics
import time
from concurrent.futures import ProcessPoolExecutor

import torch

from benchmarks import measure, roofline
from carpose import predict
from carpose.memory import keep_freed_memory
from carpose.training import Training

CASES = {
    "a step at 384×96": ("step", 384, 96, 4, 25),
    "a step at 1536×512": ("step", 1536, 512, 4, 3),
    "predicted at 1536×512, by 2": ("predict", 1536, 512, 2, 5),
    "predicted at 1536×512, by 8": ("predict", 1536, 512, 8, 5),
}


def run(model: str, case: str, kept: bool) -> dict:
    """One case in this process, from now on."""
    if kept:
        keep_freed_memory()
    what, width, height, batch, repeats = CASES[case]
    torch.set_num_threads(1)
    shape = {"input_width": width, "input_height": height, "batch_size": batch}
    recipe = measure.recipe(model, **shape, amp="off", pretrained="none")
    training = Training(recipe, False, None, roofline.CPU)
    pictures, targets = roofline.constant_batch(recipe, roofline.CPU)
    network = predict.placed(training.model, recipe, roofline.CPU, "torch")

    def once() -> None:
        if what == "step":
            training.step(pictures, targets, 1e-4)()
        else:
            predict.forward(network, pictures, recipe, roofline.CPU).poses(targets["peak"])

    for _ in range(2):
        once()
    times, before = [], resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(repeats):
        start = time.process_time()
        once()
        times.append(time.process_time() - start)
    faults = (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) / repeats
    photos = 1 if what == "step" else batch
    return {"ms": round(1e3 * statistics.median(times) / photos, 1), "faults": round(faults / photos)}


def main() -> None:
    parser = measure.begin(__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=["efficientnet", "dla34", "hourglass"])
    args = parser.parse_args()
    figures = {}
    # Neither forked nor used again: a heap as a new program has it.
    own = {"max_workers": 1, "max_tasks_per_child": 1, "mp_context": multiprocessing.get_context("spawn")}
    with ProcessPoolExecutor(**own) as pool:
        for model, case, kept in itertools.product(args.models, CASES, (False, True)):
            name = f"{model}, {case}, {'kept' if kept else 'given back'}"
            figures[name] = pool.submit(run, model, case, kept).result()
            print(name, figures[name], flush=True)
    measure.finish(args, figures)


if __name__ == "__main__":
    main()
