"""Export a trained network for another runtime."""
