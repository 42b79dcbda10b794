"""The competition's metric and its bootstrap."""

from .score import MODES, assign, average_precision, best_threshold, evaluate, evaluate_folds, match

__all__ = ["MODES", "assign", "average_precision", "best_threshold", "evaluate", "evaluate_folds", "match"]
