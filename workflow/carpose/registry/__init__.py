"""Backbones, necks and heads as plain data, from which configuration, networks and losses are derived.

Nothing here imports torch: classes and functions are dotted names, `resolve` imports them when needed.
"""

import importlib


def resolve(dotted: str):
    """Import `module:name` and return what it names."""
    module, _, name = dotted.partition(":")
    return getattr(importlib.import_module(module), name)
