"""Figures of trainings, scores and predictions."""
