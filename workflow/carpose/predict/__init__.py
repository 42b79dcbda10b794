"""Predict tables of cars from photos with trained networks."""
