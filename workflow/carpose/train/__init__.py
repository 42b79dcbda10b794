"""Training: loop, step, optimiser, moving average of the weights, state for resuming, several processes."""
