"""Fusion of several tables of cars: association, combination, calibration, and their fit."""
