"""carpose: from photos and train.csv to the 6-DoF pose of every vehicle, and to submission.csv.

One package per stage; `python -m carpose.<stage>` runs it. A package imports only from those before it:
core, geometry, registry, config, kaggle, synth, heads, data, metric, fuse, drawing, network, predict, train,
pseudo, plots, evaluation, then analysis, studies, export and forecast (`make lint` checks it).
"""

import os

__version__ = "0.1.0"

# The sums of a matrix product depend on how many threads share it, and so would the last digits of a fit. Set
# here, since it counts only before NumPy is imported; torch has threads of its own.
for _library in ("OPENBLAS", "MKL", "BLIS"):
    os.environ[f"{_library}_NUM_THREADS"] = "1"
