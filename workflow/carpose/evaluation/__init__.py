"""The table of scores of all models, rounds and the fused result."""
