"""The tests mirror the packages; `helpers` and `reference` are shared."""
