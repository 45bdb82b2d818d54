"""Tuning of glibc's allocator: whether a process keeps memory that it has freed, or returns it to the system."""

import ctypes
import os

# Parameters of mallopt, and the variables with which a user may have set them. Other C libraries have no mallopt.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8
_VARIABLES = {
    _TRIM_THRESHOLD: "MALLOC_TRIM_THRESHOLD_",
    _MMAP_THRESHOLD: "MALLOC_MMAP_THRESHOLD_",
    _ARENA_MAX: "MALLOC_ARENA_MAX",
}
_RETAINED_BYTES = 1 << 30
_LARGE_BYTES = 1 << 20
_MAX_ARENAS = 2


def retain_freed_memory() -> None:
    """Keep freed memory in this process from now on, up to 1 GiB, unless the user has set malloc's variables.

    glibc maps a buffer above 32 MiB anew each time and gives it back when it is freed. The system then hands out every
    page of it again, cleared, and to one thread at a time, while other threads wait: a step of 1,024 rows of a 1.5B
    model spent a fifth of its time on that. Peak memory is the same. If an old glibc refuses so high a threshold,
    nothing changes.
    """
    _set_parameters({_MMAP_THRESHOLD: _RETAINED_BYTES, _TRIM_THRESHOLD: _RETAINED_BYTES})


def return_large_buffers() -> None:
    """Return buffers of 1 MiB and more to the system when they are freed from now on, unless the user has set malloc's
    variables.

    By default, freeing a large buffer makes glibc keep later ones up to that size (at most 32 MiB), and each thread's
    arena keeps all memory that the thread once needed.
    """
    _set_parameters({_MMAP_THRESHOLD: _LARGE_BYTES, _ARENA_MAX: _MAX_ARENAS})


def give_back_memory() -> None:
    """Return freed memory to the system, as far as the C library can. Takes milliseconds."""
    if (trim := _function("malloc_trim")) is not None:
        trim(0)


def _set_parameters(values: dict[int, int]) -> None:
    """Set malloc's parameters in order, up to the first that is refused; none if the user has set one of them."""
    chosen = {"GLIBC_TUNABLES", *(_VARIABLES[parameter] for parameter in values)} & os.environ.keys()
    mallopt = _function("mallopt")
    if chosen or mallopt is None:
        return
    for parameter, value in values.items():
        if not mallopt(parameter, value):
            return


def _function(name: str) -> "ctypes._NamedFuncPointer | None":
    return getattr(ctypes.CDLL(None), name, None)
