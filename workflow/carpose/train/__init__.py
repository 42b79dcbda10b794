"""Training loop, step, optimiser, moving average, state, several processes."""
