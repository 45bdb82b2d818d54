"""What the C library does with memory that this process has freed."""

import ctypes
import os

# Parameters of glibc's mallopt, and the variables with which a user may have set them.
_MMAP_THRESHOLD, _ARENA_MAX = -3, -8
_VARIABLES = {"MALLOC_MMAP_THRESHOLD_", "MALLOC_ARENA_MAX", "GLIBC_TUNABLES"}
_LARGE_BYTES = 1 << 20
_MAX_ARENAS = 2


def return_large_buffers() -> None:
    """From now on buffers of 1 MiB and more go back to the system when they are freed, unless the user has set malloc's
    variables.

    By itself glibc raises that size with each such buffer that is freed, up to 32 MiB, and has an arena for each
    thread, of which each keeps what its thread once needed. Other C libraries have no such parameters.
    """
    mallopt = _function("mallopt")
    if mallopt is not None and not _VARIABLES & os.environ.keys():
        mallopt(_MMAP_THRESHOLD, _LARGE_BYTES)
        mallopt(_ARENA_MAX, _MAX_ARENAS)


def give_back_memory() -> None:
    """Return freed memory to the system, as far as the C library can. Takes milliseconds."""
    if (trim := _function("malloc_trim")) is not None:
        trim(0)


def _function(name: str) -> "ctypes._NamedFuncPointer | None":
    return getattr(ctypes.CDLL(None), name, None)
