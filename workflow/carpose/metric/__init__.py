"""The competition's metric and its bootstrap."""

from .score import assign, average_precision, best_threshold, evaluate, match

__all__ = ["assign", "average_precision", "best_threshold", "evaluate", "match"]
