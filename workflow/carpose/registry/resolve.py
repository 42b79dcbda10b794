"""Dotted name → the object of that name."""

import importlib


def resolve(dotted: str):
    """Import `module:name` and return what it names."""
    module, _, name = dotted.partition(":")
    return getattr(importlib.import_module(module), name)
