"""Resources that a run will use on a cluster."""
