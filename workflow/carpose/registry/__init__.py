"""Backbones, necks and heads as plain data, from which configuration, networks and losses are derived.

Nothing here imports torch: classes and functions are dotted names, `resolve` imports them when needed.
"""
