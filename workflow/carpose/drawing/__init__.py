"""Figures of cars on photos and from above."""
