"""What a run asks of a cluster."""
