"""The apparent height of a car in the image, proportional to 1/z: a second estimate of the depth."""

from .depth import PARAMETRISATIONS, DepthHead


class Height(DepthHead):
    """The target is the height relative to that of a car at TYPICAL_DEPTH, minus 1."""

    parametrisation = PARAMETRISATIONS["inverse"]
