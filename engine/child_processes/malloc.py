"""Freed large buffers stay with the process, so that the next step can use them again."""

import ctypes
import os

# Parameters of glibc's mallopt, and the variables with which a user may have set them.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_VARIABLES = {"MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES"}
_THRESHOLD_BYTES = 1 << 30


def retain_freed_memory() -> None:
    """From now on the process retains freed memory, up to 1 GiB, unless the user has set malloc's variables.

    glibc maps a buffer above 32 MiB anew each time and gives it back when it is freed. The system then hands out every
    page of it again, cleared, and to one thread at a time, while the others wait: a step of 1,024 rows of a 1.5B model
    spent a fifth of its time on that. Peak memory is the same. An old glibc refuses such a threshold; other C libraries
    have none.
    """
    if _VARIABLES & os.environ.keys():
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None and mallopt(_MMAP_THRESHOLD, _THRESHOLD_BYTES):
        mallopt(_TRIM_THRESHOLD, _THRESHOLD_BYTES)
