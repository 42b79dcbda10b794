"""carpose: from photos and train.csv to the 6-DoF pose of every vehicle, and to submission.csv.

One package per stage; `python -m carpose.<stage>` runs it. A package imports only from those before it:
core, geometry, registry, config, kaggle, synth, heads, data, metric, fuse, drawing, network, predict, train,
pseudo, plots, evaluation, then analysis, studies, export and forecast (`make lint` checks it).
"""

__version__ = "0.1.0"
