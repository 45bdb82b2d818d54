"""The index at the end of a weight file. Imports no torch."""

import hashlib
import json
import os
import struct
from collections.abc import Mapping
from typing import Any, BinaryIO

_TAIL = struct.Struct("<Q16s8s")
_MAGIC = b"hrimage1"  # changes with the format


class WeightFileError(Exception):
    """The file is damaged, or is not a weight file of this model."""


def packed_index(fields: Mapping[str, Any]) -> bytes:
    """Encode a weight file's index and tail. fields: the contents of the index, JSON."""
    index = json.dumps(fields).encode()
    return index + _TAIL.pack(len(index), _digest(index), _MAGIC)


def read_index(file: BinaryIO) -> Any:
    """Read a weight file's index. Its hash proves that this version wrote it, so its fields need no further check."""
    size = os.fstat(file.fileno()).st_size
    if size < _TAIL.size:
        raise WeightFileError("it is too short")
    file.seek(size - _TAIL.size)
    length, digest, magic = _TAIL.unpack(file.read(_TAIL.size))
    if magic != _MAGIC or length > size - _TAIL.size:
        raise WeightFileError("it is incomplete or of another version")
    file.seek(size - _TAIL.size - length)
    index = file.read(length)
    if _digest(index) != digest:
        raise WeightFileError("its index is damaged")
    return json.loads(index)


def _digest(index: bytes) -> bytes:
    return hashlib.blake2b(index, digest_size=16).digest()
