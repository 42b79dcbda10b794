"""The demo's rendered scenes."""
