"""Images: tensors in a file that is mapped into memory and not read, so that the system's cache of it is their memory.

    tensors, from offset 0    each at a multiple of 64 bytes, which the kernels' vectors want
    zeros                     up to a multiple of 2 MiB
    contents                  JSON: the tensors' names, types, shapes and offsets, what the caller adds, sums
    tail                      32 bytes: length and hash of the contents, and a word that says what this is

The data stands first and is written in pieces of whole large pages: then Linux (seen with 6.18 on ext4) keeps the
file in large pages and maps it so, and kernels read it as fast as memory of their own. Pieces have sums, which are held
against the data when it is mapped: a file that was cut, or not yet on the disk when the power failed, and bits that
changed there are found out. (Sums know no order: a hash would, and takes longer than loading the model anew.)
"""

import contextlib
import hashlib
import json
import mmap
import os
import stat
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch

from models.kernels.read import sum_words

LARGE_PAGE = 2 << 20
_PIECE = 4 * LARGE_PAGE  # bytes that are written and summed at once
_ALIGNMENT = 64
_TAIL = struct.Struct("<Q16s8s")
_WORD = b"hrimage1"  # another one with every change of the format
_DTYPES = {"uint8": torch.uint8, "int32": torch.int32, "bfloat16": torch.bfloat16, "float32": torch.float32}
_SMAPS = Path("/proc/self/smaps")

OnBytes = Callable[[int, int], None]  # (done, total)


class ImageError(Exception):
    """A file that is no whole image."""


@dataclass(frozen=True, slots=True, eq=False)
class Image:
    """tensors: views of the mapping, which lives as long as any of them; what is written to one stays in this process.

    extra: the caller's. num_bytes: of the mapping. large_page_share: how much of it is mapped in large pages.
    """

    tensors: dict[str, torch.Tensor]
    extra: Any
    num_bytes: int
    large_page_share: float


def can_be_written(tensors: Mapping[str, torch.Tensor]) -> bool:
    """Whether an image can hold tensors of these types."""
    return all(tensor.dtype in _DTYPES.values() and tensor.is_contiguous() for tensor in tensors.values())


def image_bytes(tensors: Mapping[str, torch.Tensor]) -> int:
    """What an image of them takes, but for its contents and what fills up pages."""
    return sum(tensor.nbytes for tensor in tensors.values())


def write_image(file: BinaryIO, tensors: Mapping[str, torch.Tensor], extra: Any, on_bytes: OnBytes) -> None:
    """Write `tensors` and `extra`, which is JSON, to an empty file. Raises OSError."""
    total = image_bytes(tensors)
    writer = _PieceWriter(file, lambda done: on_bytes(min(done, total), total))
    places: dict[str, tuple[str, list[int], int]] = {}
    for name, tensor in tensors.items():
        places[name] = (str(tensor.dtype).removeprefix("torch."), list(tensor.shape), writer.add(tensor))
    writer.end()
    contents = json.dumps({"tensors": places, "extra": extra, "sums": writer.sums, "bytes": writer.num_bytes}).encode()
    _write(file, contents + _TAIL.pack(len(contents), _digest(contents), _WORD))


def _write(file: BinaryIO, data: bytes | memoryview) -> None:
    """All of it: a file without a buffer may take less at once."""
    left = memoryview(data)
    while left:
        left = left[file.write(left) :]


class _PieceWriter:
    """Gathers tensors in pieces and writes these."""

    def __init__(self, file: BinaryIO, on_bytes: Callable[[int], None]) -> None:
        self._file = file
        self._on_bytes = on_bytes
        self._piece = torch.zeros(_PIECE, dtype=torch.uint8)
        self._used = 0
        self.num_bytes = 0  # written
        self.sums: list[int] = []

    def add(self, tensor: torch.Tensor) -> int:
        """The offset at which the tensor begins."""
        offset = self.num_bytes + self._used
        data = tensor.detach().view(-1).view(torch.uint8)
        while len(data):
            count = min(len(data), _PIECE - self._used)
            self._piece[self._used : self._used + count] = data[:count]
            self._used += count
            data = data[count:]
            if self._used == _PIECE:
                self._flush(_PIECE)
        self._used += -self._used % _ALIGNMENT  # what is skipped was zeroed
        if self._used == _PIECE:
            self._flush(_PIECE)
        return offset

    def end(self) -> None:
        """Write what is left, up to a whole large page."""
        if self._used:
            self._flush(self._used + -self._used % LARGE_PAGE)

    def _flush(self, size: int) -> None:
        piece = self._piece[:size]
        self.sums.append(_sum(piece))
        _write(self._file, memoryview(piece.numpy()))
        self.num_bytes += size
        self._piece.zero_()
        self._used = 0
        self._on_bytes(self.num_bytes)


def map_image(path: Path, on_bytes: OnBytes) -> Image:
    """Raises OSError if it cannot be read and ImageError if it is not whole."""
    with open(path, "rb", opener=_open_at_once) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise ImageError("it is no file")
        contents = _read_contents(file)
        mapped = _map(file, contents["bytes"])
    _check(mapped, contents["sums"], on_bytes)
    tensors = {name: _view(mapped, *place) for name, place in contents["tensors"].items()}
    return Image(tensors, contents["extra"], len(mapped), _large_page_share(mapped))


def _open_at_once(path: str, flags: int) -> int:
    """A pipe would be waited for."""
    return os.open(path, flags | os.O_NONBLOCK)


def _read_contents(file: BinaryIO) -> Any:
    """As they were written, by this version: what they say needs no further check."""
    size = os.fstat(file.fileno()).st_size
    if size < _TAIL.size:
        raise ImageError("it is too short")
    file.seek(size - _TAIL.size)
    length, digest, word = _TAIL.unpack(file.read(_TAIL.size))
    if word != _WORD or length > size - _TAIL.size:
        raise ImageError("it has no end, or that of another version")
    file.seek(size - _TAIL.size - length)
    contents = file.read(length)
    if _digest(contents) != digest:
        raise ImageError("its contents are not what was written")
    return json.loads(contents)


def _digest(contents: bytes) -> bytes:
    return hashlib.blake2b(contents, digest_size=16).digest()


def _map(file: BinaryIO, num_bytes: int) -> torch.Tensor:
    """The first `num_bytes` of the file, uint8; private, so that the file can never be changed through it."""
    if num_bytes > os.fstat(file.fileno()).st_size:
        raise ImageError("it was cut")
    if not num_bytes:
        return torch.empty(0, dtype=torch.uint8)
    pages = mmap.mmap(file.fileno(), num_bytes, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):  # a system without them
            pages.madvise(mmap.MADV_HUGEPAGE)  # what is not in the system's cache is read into large pages
    return torch.frombuffer(pages, dtype=torch.uint8)  # keeps `pages` alive


def _check(mapped: torch.Tensor, sums: list[int], on_bytes: OnBytes) -> None:
    """Read all of it once, which maps its pages too."""
    pieces = mapped.split(_PIECE) if len(mapped) else ()
    done = 0
    for piece, expected in zip(pieces, sums, strict=True):
        if _sum(piece) != expected:
            raise ImageError("its data is not what was written")
        done += len(piece)
        on_bytes(done, len(mapped))


def _sum(piece: torch.Tensor) -> int:
    """Of the 64-bit words, modulo 2^64; on all threads, since all of a model is summed at every start."""
    return sum_words(piece.view(torch.int64))


def _view(mapped: torch.Tensor, dtype_name: str, shape: list[int], offset: int) -> torch.Tensor:
    dtype = _DTYPES[dtype_name]
    size = torch.Size(shape).numel() * dtype.itemsize
    return mapped[offset : offset + size].view(dtype).view(shape)


def _large_page_share(mapped: torch.Tensor) -> float:
    """Of a mapping that has been read; 0 where the system does not tell."""
    if not len(mapped) or not _SMAPS.exists():
        return 0.0
    prefix, in_large_pages = f"{mapped.data_ptr():x}-", 0
    is_ours = False
    for line in _SMAPS.read_text(errors="surrogateescape").splitlines():
        first, _, rest = line.partition(" ")
        if not first.endswith(":"):  # "7f00-7f80 rw-p ...": another mapping begins
            is_ours = first.startswith(prefix)
        elif is_ours and first == "FilePmdMapped:":
            in_large_pages = int(rest.split()[0]) * 1024
    return in_large_pages / len(mapped)
