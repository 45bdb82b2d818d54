"""WeightFile: tensors in a memory-mapped file, which need no memory besides the system's page cache.

    tensors, from offset 0    each at a multiple of 64 bytes, which the kernels' vectors need
    zeros                     up to a multiple of 2 MiB
    index                     JSON: the tensors' names, types, shapes and offsets, the caller's data, checksums
    tail                      32 bytes: length and hash of the index, and the magic number

The data comes first and is written in pieces of whole huge pages: then Linux (tested with 6.18 on ext4) caches and maps
the file in huge pages, and kernels read it as fast as their own memory. Each piece has a checksum, which is compared
when the file is mapped. The checksums detect truncated files, files that were not yet on the disk when the power
failed, and bits that changed there. (They are blind to order, but a hash would take longer than loading the model
again.)
"""

import contextlib
import mmap
import os
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch

from models.kernels.cpu.read import sum_words
from models.weight_cache.index import WeightFileError, packed_index, read_index

HUGE_PAGE_BYTES = 2 << 20
_PIECE_BYTES = 4 * HUGE_PAGE_BYTES  # written and summed together
_ALIGNMENT_BYTES = 64
_DTYPES = {"uint8": torch.uint8, "int32": torch.int32, "bfloat16": torch.bfloat16, "float32": torch.float32}
_SMAPS = Path("/proc/self/smaps")

OnBytes = Callable[[int, int], None]  # (done, total)


@dataclass(frozen=True, slots=True, eq=False)
class WeightFile:
    """A memory-mapped file of tensors.

    tensors: views of the mapping, which lives as long as any of them; writes to them stay in this process. extra: the
    caller's data. num_bytes: the size of the mapping. huge_page_share: the share of these bytes in huge pages.
    """

    tensors: dict[str, torch.Tensor]
    extra: Any
    num_bytes: int
    huge_page_share: float


def can_be_written(tensors: Mapping[str, torch.Tensor]) -> bool:
    """Whether a weight file can store these tensors: they have a supported dtype and are contiguous."""
    return all(tensor.dtype in _DTYPES.values() and tensor.is_contiguous() for tensor in tensors.values())


def tensor_bytes(tensors: Mapping[str, torch.Tensor]) -> int:
    """Return the bytes of all tensors, without index and padding."""
    return sum(tensor.nbytes for tensor in tensors.values())


def write_weight_file(file: BinaryIO, tensors: Mapping[str, torch.Tensor], extra: Any, on_bytes: OnBytes) -> None:
    """Write `tensors` and `extra`, which must be JSON, to an empty file. Raises OSError."""
    total = tensor_bytes(tensors)
    writer = _PieceWriter(file, lambda done: on_bytes(min(done, total), total))
    table: dict[str, tuple[str, list[int], int]] = {}
    for name, tensor in tensors.items():
        table[name] = (str(tensor.dtype).removeprefix("torch."), list(tensor.shape), writer.add(tensor))
    writer.finish()
    fields = {"tensors": table, "extra": extra, "sums": writer.checksums, "bytes": writer.num_bytes}
    _write(file, packed_index(fields))


def _write(file: BinaryIO, data: bytes | memoryview) -> None:
    """Write all data, in several calls if necessary, since an unbuffered file may write only a part."""
    rest = memoryview(data)
    while rest:
        rest = rest[file.write(rest) :]


class _PieceWriter:
    """Writes tensors to a file in large pieces, and computes each piece's checksum."""

    def __init__(self, file: BinaryIO, on_bytes: Callable[[int], None]) -> None:
        self._file = file
        self._on_bytes = on_bytes
        self._piece = torch.zeros(_PIECE_BYTES, dtype=torch.uint8)
        self._used = 0
        self.num_bytes = 0  # written
        self.checksums: list[int] = []

    def add(self, tensor: torch.Tensor) -> int:
        """Append a tensor, and return its offset in the file."""
        offset = self.num_bytes + self._used
        data = tensor.detach().view(-1).view(torch.uint8)
        while len(data):
            count = min(len(data), _PIECE_BYTES - self._used)
            self._piece[self._used : self._used + count] = data[:count]
            self._used += count
            data = data[count:]
            if self._used == _PIECE_BYTES:
                self._flush(_PIECE_BYTES)
        self._used += -self._used % _ALIGNMENT_BYTES  # the gap was zeroed
        if self._used == _PIECE_BYTES:
            self._flush(_PIECE_BYTES)
        return offset

    def finish(self) -> None:
        """Write the last piece, padded to a whole huge page."""
        if self._used:
            self._flush(self._used + -self._used % HUGE_PAGE_BYTES)

    def _flush(self, size: int) -> None:
        piece = self._piece[:size]
        self.checksums.append(_checksum(piece))
        _write(self._file, memoryview(piece.numpy()))
        self.num_bytes += size
        self._piece.zero_()
        self._used = 0
        self._on_bytes(self.num_bytes)


def map_weight_file(path: Path, on_bytes: OnBytes) -> WeightFile:
    """Map and verify a file. Raises OSError if it cannot be read, WeightFileError if it is damaged."""
    with open(path, "rb", opener=_open_without_waiting) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise WeightFileError("it is not a file")
        index = read_index(file)
        mapped = _map(file, index["bytes"])
    _verify(mapped, index["sums"], on_bytes)
    tensors = {name: _view(mapped, *fields) for name, fields in index["tensors"].items()}
    return WeightFile(tensors, index["extra"], len(mapped), _huge_page_share(mapped))


def _open_without_waiting(path: str, flags: int) -> int:
    """Open a file without blocking: opening a pipe would wait for its writer."""
    return os.open(path, flags | os.O_NONBLOCK)


def _map(file: BinaryIO, num_bytes: int) -> torch.Tensor:
    """Map the first `num_bytes` of the file as uint8, copy-on-write, so that writes never change the file."""
    if num_bytes > os.fstat(file.fileno()).st_size:
        raise WeightFileError("it is truncated")
    if not num_bytes:
        return torch.empty(0, dtype=torch.uint8)
    pages = mmap.mmap(file.fileno(), num_bytes, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):  # a system without huge pages
            pages.madvise(mmap.MADV_HUGEPAGE)  # pages that are not in the system's cache are read into huge pages
    return torch.frombuffer(pages, dtype=torch.uint8)  # keeps `pages` alive


def _verify(mapped: torch.Tensor, checksums: list[int], on_bytes: OnBytes) -> None:
    """Check the pieces' checksums. This reads all data once, which also maps the pages."""
    pieces = mapped.split(_PIECE_BYTES) if len(mapped) else ()
    done = 0
    for piece, expected in zip(pieces, checksums, strict=True):
        if _checksum(piece) != expected:
            raise WeightFileError("its data is damaged")
        done += len(piece)
        on_bytes(done, len(mapped))


def _checksum(piece: torch.Tensor) -> int:
    """Return the sum of the 64-bit words modulo 2^64; on all threads, since every start sums the whole model."""
    return sum_words(piece.view(torch.int64))


def _view(mapped: torch.Tensor, dtype_name: str, shape: list[int], offset: int) -> torch.Tensor:
    dtype = _DTYPES[dtype_name]
    size = torch.Size(shape).numel() * dtype.itemsize
    return mapped[offset : offset + size].view(dtype).view(shape)


def _huge_page_share(mapped: torch.Tensor) -> float:
    """Return the share of a mapping, already read, that is in huge pages; 0 if the system does not report it."""
    if not len(mapped) or not _SMAPS.exists():
        return 0.0
    prefix, in_huge_pages = f"{mapped.data_ptr():x}-", 0
    is_ours = False
    for line in _SMAPS.read_text(errors="surrogateescape").splitlines():
        first, _, rest = line.partition(" ")
        if not first.endswith(":"):  # "7f00-7f80 rw-p ...": another mapping begins
            is_ours = first.startswith(prefix)
        elif is_ours and first == "FilePmdMapped:":
            in_huge_pages = int(rest.split()[0]) * 1024
    return in_huge_pages / len(mapped)
