"""MappedPages: pages of mapped weight files, released from this process after they have been read."""

import ctypes
import mmap
from collections.abc import Iterable
from pathlib import Path

_MAPS = Path("/proc/self/maps")
_STRIDE_BYTES = 4 << 20  # read between two releases, since a release costs a system call per mapping


class MappedPages:
    """Mappings of weight files whose pages are released while a model loads.

    Otherwise the model would be in memory twice, as its file and as loaded weights. The system may still cache the
    file, and maps a page again when it is read again. The mappings must not have been written to, since the changes
    would be lost. Does nothing on systems that do not list mappings.
    """

    def __init__(self, files: Iterable[Path]) -> None:
        """files: the files whose present mappings are released."""
        self._ranges = _mapped_ranges({str(file.resolve()) for file in files}) if _MAPS.exists() else []
        self._read_bytes = 0

    def record_read(self, num_bytes: int) -> None:
        """Count bytes as read, and release all pages after every few megabytes."""
        self._read_bytes += num_bytes
        if self._read_bytes < _STRIDE_BYTES or not self._ranges:
            return
        self._read_bytes = 0
        library = ctypes.CDLL(None)
        for start, size in self._ranges:
            library.madvise(ctypes.c_void_p(start), ctypes.c_size_t(size), mmap.MADV_DONTNEED)


def _mapped_ranges(files: set[str]) -> list[tuple[int, int]]:
    """Return (start, bytes) of the files' mappings, from lines like "7f00-7f80 rw-p 00000000 fe:00 1329 /path"."""
    ranges = []
    for line in _MAPS.read_text(errors="surrogateescape").splitlines():
        fields = line.split(maxsplit=5)
        if len(fields) == 6 and fields[5] in files:
            start, end = (int(part, 16) for part in fields[0].split("-"))
            ranges.append((start, end - start))
    return ranges
