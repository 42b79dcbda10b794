"""carpose: from photos and train.csv to the 6-DoF pose of every vehicle, and to submission.csv.

One package per stage; `python -m carpose.<stage>` runs it. A package imports only from those before it in
this list: core, geometry, registry, config, kaggle, synth, heads, data, metric, fuse, drawing, network,
predict, train, pseudo, plots, evaluation, then analysis, studies, export, forecast, then report and compare
(`make lint` checks it).
"""

import os

__version__ = "0.1.0"

# The last digits of a matrix product, and so of a fit, depend on the number of BLAS threads. The variables
# are set here because they are read only when NumPy is imported. torch's threads are set separately.
for _library in ("OPENBLAS", "MKL", "BLIS"):
    os.environ[f"{_library}_NUM_THREADS"] = "1"
