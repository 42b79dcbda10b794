"""One page that shows a run: scores, gains, trainings, errors, cost, configuration and photos."""
