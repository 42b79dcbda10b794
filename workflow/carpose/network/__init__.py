"""A configuration's network: built, saved, loaded, and the device it computes on."""
