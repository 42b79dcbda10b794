"""Durations as text."""


def duration(seconds: float) -> str:
    """Seconds as a reader says them: 8 s, 1 min 40 s, 12 min, 3 h 20 min."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 600:
        return f"{seconds // 60} min {seconds % 60} s" if seconds % 60 else f"{seconds // 60} min"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min" if minutes % 60 else f"{minutes // 60} h"


def estimate(seconds: float) -> str:
    """The same for a duration that is not known exactly: 10 s, 2 min, 3 h 20 min."""
    return duration(max(round(seconds, -1), 10) if seconds < 55 else max(round(seconds / 60), 1) * 60)
