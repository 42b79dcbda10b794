"""Studies: one change at a time, trained with several seeds and measured."""
