"""The rendered street scenes of the demo data."""
