"""Pseudo labels."""
