"""The tests mirror the packages; `helpers` and `reference` are shared, and the benchmarks use them too."""
