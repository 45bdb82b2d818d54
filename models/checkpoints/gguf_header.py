"""The header of a GGUF file: metadata and tensor table, every length checked against the file's size before it is used.

The `gguf` package's own reader trusts counts and lengths (an array that claims 2**60 entries keeps it busy for ever)
and takes seconds on a large vocabulary; so this file walks the header, and `gguf` gives types and dequantisation.
"""

import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

from models.errors import CheckpointError, UnsupportedModelError

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_MAX_DIMENSIONS = 4
_STRING, _ARRAY, _BOOL = 8, 9, 7
# Value type -> struct format.
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", _BOOL: "?", 10: "Q", 11: "q", 12: "d"}
_LEAST_STRING_BYTES = 8
_LEAST_ENTRY_BYTES = 8 + 4 + 1  # key length, type, the smallest value
_LEAST_TENSOR_BYTES = 8 + 4 + 8 + 4 + 8  # name length, dimensions, one of them, type, offset


@dataclass(frozen=True, slots=True)
class GGUFTensor:
    """One entry of the tensor table; its bytes lie within the file."""

    name: str
    shape: tuple[int, ...]  # outermost first, unlike in the file
    type: GGMLQuantizationType
    start: int  # of the data, in bytes from the start of the file
    num_bytes: int


@dataclass(frozen=True, slots=True)
class GGUFHeader:
    path: Path
    metadata: Mapping[str, Any]  # numbers, bools, strings and lists of them
    tensors: tuple[GGUFTensor, ...]


def read_gguf_header(path: Path) -> GGUFHeader:
    """Read one file's header; raises CheckpointError, or UnsupportedModelError for a sound file of another kind."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            if size < len(_MAGIC) + 4 + 16:
                raise CheckpointError(f"{path} has {size} bytes and is no GGUF file; fetch it again")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return _Walker(path, data).header()
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}; check the path and its permissions") from None


class _Walker:
    """A cursor over the header that never moves past the end of the file."""

    def __init__(self, path: Path, data: mmap.mmap) -> None:
        self.path = path
        self.data = data
        self.size = len(data)
        self.at = 0

    def header(self) -> GGUFHeader:
        self._check_kind()
        num_tensors, num_entries = self._unpack("QQ")
        self._check_count(num_tensors, _LEAST_TENSOR_BYTES, "tensors")
        self._check_count(num_entries, _LEAST_ENTRY_BYTES, "metadata entries")
        metadata: dict[str, Any] = {}
        for _ in range(num_entries):
            key = self._name("a metadata key")
            if key in metadata:
                raise self._broken(f"repeats the metadata key {key!r}")
            metadata[key] = self._value(key)
        table = [self._table_entry() for _ in range(num_tensors)]
        return GGUFHeader(self.path, metadata, self._place(table, metadata))

    def _check_kind(self) -> None:
        magic = self._take(4, "the magic number")
        if magic != _MAGIC:
            raise self._broken(f"starts with {magic!r} and not with {_MAGIC!r}: it is no GGUF file")
        (version,) = self._unpack("I")
        if version & 0xFFFF == 0:
            raise UnsupportedModelError(f"{self.path} is a big-endian GGUF file; convert it to little-endian")
        if version not in _VERSIONS:
            raise UnsupportedModelError(
                f"{self.path} has GGUF version {version}; supported are 2 and 3; convert the model again"
            )

    def _value(self, key: str) -> Any:
        (kind,) = self._unpack("I")
        if kind == _STRING:
            return self._text(f"metadata {key!r}")
        if kind in _SCALARS:
            return self._unpack(_SCALARS[kind])[0]
        if kind != _ARRAY:
            raise self._broken(f"has metadata {key!r} of the unknown type {kind}")
        item, count = self._unpack("IQ")
        if item == _STRING:
            self._check_count(count, _LEAST_STRING_BYTES, f"strings in metadata {key!r}")
            return self._texts(count, f"metadata {key!r}")
        if item not in _SCALARS:
            raise self._broken(f"has metadata {key!r}, an array of the unknown type {item}")
        item_type = np.dtype("<" + _SCALARS[item])
        self._check_count(count, item_type.itemsize, f"numbers in metadata {key!r}")
        return np.frombuffer(self._take(count * item_type.itemsize, f"metadata {key!r}"), item_type).tolist()

    def _table_entry(self) -> tuple[str, tuple[int, ...], GGMLQuantizationType, int]:
        name = self._name("a tensor name")
        (num_dims,) = self._unpack("I")
        if not 1 <= num_dims <= _MAX_DIMENSIONS:
            raise self._broken(f"has tensor {name!r} with {num_dims} dimensions; 1 to {_MAX_DIMENSIONS} are possible")
        shape = tuple(reversed(self._unpack("Q" * num_dims)))
        kind, offset = self._unpack("IQ")
        try:
            return name, shape, GGMLQuantizationType(kind), offset
        except ValueError:
            raise UnsupportedModelError(
                f"{self.path}: tensor {name!r} has type {kind}, which is not known; use another quantisation"
            ) from None

    def _place(
        self, table: list[tuple[str, tuple[int, ...], GGMLQuantizationType, int]], metadata: Mapping[str, Any]
    ) -> tuple[GGUFTensor, ...]:
        alignment = metadata.get("general.alignment", 32)
        if not isinstance(alignment, int) or alignment < 8 or alignment & (alignment - 1):
            raise self._broken(f"has general.alignment {alignment!r}; it must be a power of two, 8 or more")
        data_start = -(-self.at // alignment) * alignment
        tensors: dict[str, GGUFTensor] = {}
        for name, shape, kind, offset in table:
            if name in tensors:
                raise self._broken(f"repeats tensor {name!r}")
            block_size, block_bytes = GGML_QUANT_SIZES[kind]
            num_elements = 1
            for size in shape:
                num_elements *= size
            if shape[-1] % block_size:
                raise self._broken(f"has tensor {name!r} with rows of {shape[-1]}, no multiple of {block_size}")
            num_bytes = num_elements // block_size * block_bytes
            start = data_start + offset
            if num_elements < 1 or offset % alignment or start + num_bytes > self.size:
                raise self._broken(
                    f"has tensor {name!r} of shape {list(shape)} at bytes {start} to {start + num_bytes}, "
                    f"but the file ends at {self.size}: it is truncated or damaged"
                )
            tensors[name] = GGUFTensor(name, shape, kind, start, num_bytes)
        return tuple(tensors.values())

    def _name(self, what: str) -> str:
        return self._text(what, errors="strict")

    def _text(self, what: str, errors: str = "replace") -> str:
        (length,) = self._unpack("Q")
        try:
            return self._take(length, what).decode("utf-8", errors)
        except UnicodeDecodeError:
            raise self._broken(f"has {what} that is not UTF-8") from None

    def _texts(self, count: int, what: str) -> list[str]:
        """`count` strings; a vocabulary has hundreds of thousands, so that calls would take most of the time."""
        data, at, texts, length_of = self.data, self.at, [], struct.Struct("<Q").unpack_from
        try:
            for _ in range(count):
                start = at + 8
                at = start + length_of(data, at)[0]
                if at > self.size:
                    break
                texts.append(data[start:at].decode("utf-8", "replace"))
        except struct.error:
            at = self.size + 1
        if at > self.size:
            raise self._broken(f"ends within {what}, at {self.size} bytes: it is truncated or damaged")
        self.at = at
        return texts

    def _unpack(self, fields: str) -> tuple[Any, ...]:
        layout = struct.Struct("<" + fields)
        return layout.unpack(self._take(layout.size, "its header"))

    def _take(self, num_bytes: int, what: str) -> bytes:
        if num_bytes > self.size - self.at:
            raise self._broken(
                f"ends within {what} ({num_bytes} bytes wanted at {self.at} of {self.size}): it is truncated or damaged"
            )
        taken = self.data[self.at : self.at + num_bytes]
        self.at += num_bytes
        return taken

    def _check_count(self, count: int, least_bytes: int, what: str) -> None:
        if count * least_bytes > self.size - self.at:
            raise self._broken(
                f"claims {count} {what}, more than its {self.size} bytes can hold: it is truncated or damaged"
            )

    def _broken(self, reason: str) -> CheckpointError:
        return CheckpointError(f"{self.path} {reason}; fetch it again")
