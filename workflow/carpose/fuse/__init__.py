"""Fusion of several tables of cars: association, combination, calibration, and the fit of all that."""
