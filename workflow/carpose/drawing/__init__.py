"""Cars on photos and from above."""
