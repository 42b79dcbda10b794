"""Backbones, necks and heads as plain data. Configuration, networks and losses are derived from it.

Nothing here imports torch: classes and functions are dotted names, which `resolve` imports when needed.
"""

import importlib
from typing import Any


def resolve(dotted: str) -> Any:
    """Import `module:name` and return the object of this name."""
    module, _, name = dotted.partition(":")
    return getattr(importlib.import_module(module), name)
