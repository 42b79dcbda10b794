"""Every key of the configuration, once: type, range, default, help."""
