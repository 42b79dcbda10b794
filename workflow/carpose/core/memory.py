"""How a process deals with the memory that it frees."""

import ctypes

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of malloc.h


def keep_freed_memory() -> None:
    """From now on this process and those that it forks keep memory that is freed, for the next array.

    glibc gives large blocks back at once, and the system hands out new ones page by page, each filled with
    zeros: a quarter of decoding a photo, up to two fifths of a prediction at 1536×512 (docs/lab/profiles.md).
    Other C libraries do as they do.
    """
    if hasattr(library := ctypes.CDLL(None), "mallopt"):
        library.mallopt(M_MMAP_MAX, 0)  # no block comes straight from the system
        library.mallopt(M_TRIM_THRESHOLD, -1)  # none at the end of the heap goes back
