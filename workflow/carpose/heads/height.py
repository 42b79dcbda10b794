"""A second depth, learnt as inverse depth (1/z, which is proportional to the apparent height)."""

from .depth import PARAMETRISATIONS, DepthHead


class Height(DepthHead):
    """The target is 1/z relative to that of a car at TYPICAL_DEPTH, minus 1; see DepthHead.targets."""

    parametrisation = PARAMETRISATIONS["inverse"]
