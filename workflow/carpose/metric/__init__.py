"""The competition's metric and its bootstrap."""

from .score import (
    ROTATION_DEG,
    TRANSLATION,
    assign,
    average_precision,
    best_threshold,
    evaluate,
    match,
    quaternion,
)

__all__ = [
    "ROTATION_DEG",
    "TRANSLATION",
    "assign",
    "average_precision",
    "best_threshold",
    "evaluate",
    "match",
    "quaternion",
]
