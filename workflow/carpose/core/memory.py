"""Keeps freed memory in the process, so that large arrays need no new pages."""

import ctypes

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of malloc.h


def keep_freed_memory() -> None:
    """From now on this process, and those that it forks, keep freed memory for the next array.

    By default glibc returns large blocks to the system at once. New pages are then filled with zeros, which
    takes a quarter of the time to decode a photo and up to two fifths of a prediction at 1536×512
    (docs/lab/profiles.md). Does nothing with other C libraries.
    """
    if hasattr(library := ctypes.CDLL(None), "mallopt"):
        library.mallopt(M_MMAP_MAX, 0)  # allocate large blocks on the heap, not with mmap
        library.mallopt(M_TRIM_THRESHOLD, -1)  # never return the end of the heap to the system
