"""Trained networks and photos → tables of cars."""
