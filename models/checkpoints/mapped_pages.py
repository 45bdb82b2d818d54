"""MappedPages: the pages of mapped weight files, released from this process once they have been read."""

import ctypes
import mmap
from collections.abc import Iterable
from pathlib import Path

_MAPS = Path("/proc/self/maps")
_STRIDE_BYTES = 4 << 20  # read between two releases: each costs a system call for every mapping


class MappedPages:
    """So a model that is being loaded is not in memory twice, as its file and as loaded weights.

    The system may still cache the file, and maps a page again when it is read again. Nothing may have been written to
    the mappings, since that would be lost. Does nothing where the system does not list mappings.
    """

    def __init__(self, files: Iterable[Path]) -> None:
        """files: those whose mappings, as they are now, are released."""
        self._ranges = _ranges_of({str(file.resolve()) for file in files}) if _MAPS.exists() else []
        self._read_bytes = 0

    def have_read(self, num_bytes: int) -> None:
        """Count bytes as read; releases all pages from time to time."""
        self._read_bytes += num_bytes
        if self._read_bytes < _STRIDE_BYTES or not self._ranges:
            return
        self._read_bytes = 0
        library = ctypes.CDLL(None)
        for start, size in self._ranges:
            library.madvise(ctypes.c_void_p(start), ctypes.c_size_t(size), mmap.MADV_DONTNEED)


def _ranges_of(files: set[str]) -> list[tuple[int, int]]:
    """(start, bytes) of each mapping of a file. A line: "7f00-7f80 rw-p 00000000 fe:00 1329 /path"."""
    ranges = []
    for line in _MAPS.read_text(errors="surrogateescape").splitlines():
        fields = line.split(maxsplit=5)
        if len(fields) == 6 and fields[5] in files:
            start, end = (int(part, 16) for part in fields[0].split("-"))
            ranges.append((start, end - start))
    return ranges
