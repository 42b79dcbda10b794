"""The apparent height, a second depth: a car appears the higher the nearer it is, as 1/z."""

from .depth import PARAMETRISATIONS, DepthHead


class Height(DepthHead):
    """Relative to the height that a car has at TYPICAL_DEPTH, less 1."""

    parametrisation = PARAMETRISATIONS["inverse"]
