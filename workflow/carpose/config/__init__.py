"""The keys of the configuration: type, range, default and help of each are written here and only here."""
