"""The header of a GGUF file: metadata and tensor table. Every length is checked against the file's size before use.

The `gguf` package's own reader trusts counts and lengths (an array that claims 2**60 entries keeps it busy forever)
and takes seconds for a large vocabulary. So this file reads the header, and `gguf` gives types and dequantization.
"""

import errno
import math
import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

from models.checkpoints.gguf.array import GGUFArray
from models.errors import CheckpointError, UnsupportedModelError

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_MAX_DIMENSIONS = 4
_FOREIGN_TYPES = {36: "I2_S", 38: "TL1"}  # numbers that ggml gave up, in files of BitNet's authors
_STRING, _ARRAY, _BOOL = 8, 9, 7
# Value type -> struct format.
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", _BOOL: "?", 10: "Q", 11: "q", 12: "d"}
_MIN_STRING_BYTES = 8
_MIN_ENTRY_BYTES = 8 + 4 + 1  # key length, type, the smallest value
_MIN_TENSOR_BYTES = 8 + 4 + 8 + 4 + 8  # name length, number of dimensions, one dimension, type, offset
# Limits that no model comes near; a file that claims more would only cost memory and time.
_MAX_COUNT = 1 << 16  # of metadata entries, and of tensors
_MAX_STRINGS = 1 << 20  # in one array
_MAX_STRING_BYTES = 48 << 20  # of all keys, names, strings and arrays of strings
_MAX_NAME_BYTES = 63  # of a tensor, as in ggml
_MAX_KEY_BYTES = 1023


@dataclass(frozen=True, slots=True)
class GGUFTensor:
    """An entry of a GGUF file's tensor table; its bytes lie within the file."""

    name: str
    shape: tuple[int, ...]  # outermost first, unlike in the file
    type: GGMLQuantizationType
    start: int  # of the data, in bytes from the start of the file
    num_bytes: int


@dataclass(frozen=True, slots=True)
class GGUFHeader:
    """Metadata and tensor table of one GGUF file."""

    path: Path
    metadata: Mapping[str, Any]  # numbers, bools, strings, and GGUFArrays of numbers or strings
    tensors: tuple[GGUFTensor, ...]


def read_gguf_header(path: Path) -> GGUFHeader:
    """Read a GGUF file's header.

    Raises CheckpointError for a damaged or unreadable file, UnsupportedModelError for big-endian files and for versions
    that are not supported.
    """
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            if size < len(_MAGIC) + 4 + 16:
                raise CheckpointError(f"{path} has {size} bytes and is not a GGUF file; fetch it again")
            return _HeaderReader(path, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)).header()
    except OSError as error:
        remedy = "check the path and its permissions"
        if error.errno == errno.ENOMEM:
            remedy = "raise the limit of this process (ulimit -v)"
        raise CheckpointError(f"{path} cannot be read: {error.strerror}; {remedy}") from None


class _HeaderReader:
    """A cursor over the header that never moves past the end of the file."""

    def __init__(self, path: Path, mapped: mmap.mmap) -> None:
        self.path = path
        self.data = memoryview(mapped)  # arrays in the metadata are views of it
        self.size = len(mapped)
        self.at = 0
        self.string_bytes = 0

    def header(self) -> GGUFHeader:
        self._check_kind()
        num_tensors, num_entries = self._unpack("QQ")
        self._check_count(num_tensors, _MIN_TENSOR_BYTES, "tensors")
        self._check_count(num_entries, _MIN_ENTRY_BYTES, "metadata entries")
        metadata: dict[str, Any] = {}
        for _ in range(num_entries):
            key = self._string("a metadata key", _MAX_KEY_BYTES, "strict")
            if key in metadata:
                raise self._broken(f"repeats the metadata key {key!r}")
            metadata[key] = self._value(key)
        table = [self._table_entry() for _ in range(num_tensors)]
        return GGUFHeader(self.path, metadata, self._locate_tensors(table, metadata))

    def _check_kind(self) -> None:
        magic = bytes(self._take(4, "the magic number"))
        if magic != _MAGIC:
            raise self._broken(f"starts with {magic!r} and not with {_MAGIC!r}: it is not a GGUF file")
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
            return self._string(f"metadata {key!r}")
        if kind in _SCALARS:
            return self._unpack(_SCALARS[kind])[0]
        if kind != _ARRAY:
            raise self._broken(f"has metadata {key!r} of the unknown type {kind}")
        return self._array(f"metadata {key!r}")

    def _array(self, what: str) -> GGUFArray:
        item, count = self._unpack("IQ")
        if item == _STRING:
            self._check_count(count, _MIN_STRING_BYTES, f"strings in {what}", _MAX_STRINGS)
            return GGUFArray(self._skip_strings(count, what), count, None)
        if item not in _SCALARS:
            raise self._broken(f"has {what}, an array of the unknown type {item}")
        number = np.dtype("<" + _SCALARS[item])
        return GGUFArray(self._take(count * number.itemsize, what), count, number)

    def _table_entry(self) -> tuple[str, tuple[int, ...], GGMLQuantizationType, int]:
        name = self._string("a tensor name", _MAX_NAME_BYTES, "strict")
        (num_dims,) = self._unpack("I")
        if not 1 <= num_dims <= _MAX_DIMENSIONS:
            raise self._broken(f"has tensor {name!r} with {num_dims} dimensions; 1 to {_MAX_DIMENSIONS} are possible")
        shape = tuple(reversed(self._unpack("Q" * num_dims)))
        type_id, offset = self._unpack("IQ")
        try:
            return name, shape, GGMLQuantizationType(type_id), offset
        except ValueError:
            known = f", {_FOREIGN_TYPES[type_id]} of bitnet.cpp" if type_id in _FOREIGN_TYPES else ""
            raise UnsupportedModelError(
                f"{self.path}: tensor {name!r} has type {type_id}{known}, which is not supported; use another "
                f"quantization{', such as TQ2_0, or the checkpoint in safetensors' if known else ''}"
            ) from None

    def _locate_tensors(
        self, table: list[tuple[str, tuple[int, ...], GGMLQuantizationType, int]], metadata: Mapping[str, Any]
    ) -> tuple[GGUFTensor, ...]:
        alignment = metadata.get("general.alignment", 32)
        if not isinstance(alignment, int) or alignment < 8 or alignment & (alignment - 1):
            raise self._broken(f"has general.alignment {alignment!r}; it must be a power of two, 8 or more")
        data_start = expected = -(-self.at // alignment) * alignment
        tensors: dict[str, GGUFTensor] = {}
        for name, shape, tensor_type, offset in table:
            if name in tensors:
                raise self._broken(f"repeats tensor {name!r}")
            block_size, block_bytes = GGML_QUANT_SIZES[tensor_type]
            num_elements = math.prod(shape)
            if shape[-1] % block_size:
                raise self._broken(f"has tensor {name!r} with rows of {shape[-1]}, not a multiple of {block_size}")
            num_bytes = num_elements // block_size * block_bytes
            start = data_start + offset
            if num_elements < 1 or start + num_bytes > self.size:
                raise self._broken(
                    f"has tensor {name!r} of shape {list(shape)} at bytes {start} to {start + num_bytes}, "
                    f"but the file ends at {self.size}: it is truncated or damaged"
                )
            if start != expected:  # as in ggml: tensors follow one another in the table's order, without gaps
                raise self._broken(
                    f"has tensor {name!r} at byte {start}, but after the tensor before it, it must be at {expected}: "
                    "the table is damaged"
                )
            expected = -(-(start + num_bytes) // alignment) * alignment
            tensors[name] = GGUFTensor(name, shape, tensor_type, start, num_bytes)
        return tuple(tensors.values())

    def _string(self, what: str, max_bytes: int = _MAX_STRING_BYTES, errors: str = "replace") -> str:
        (length,) = self._unpack("Q")
        taken = self._take(length, what)
        if length > max_bytes:
            raise self._broken(f"has {what} of {length} bytes; no model has more than {max_bytes}: it is damaged")
        self._count_string_bytes(length, what)
        try:
            return str(taken, "utf-8", errors)
        except UnicodeDecodeError:
            raise self._broken(f"has {what} that is not UTF-8") from None

    def _skip_strings(self, count: int, what: str) -> memoryview:
        """Return the bytes of `count` strings, after checking that each lies within the file."""
        data, begin, at, length_of = self.data, self.at, self.at, struct.Struct("<Q").unpack_from
        try:
            for _ in range(count):
                at += 8 + length_of(data, at)[0]
        except (struct.error, OverflowError):  # at is beyond the end
            at = self.size + 1
        if at > self.size:
            raise self._broken(f"ends within {what}, at {self.size} bytes: it is truncated or damaged")
        self._count_string_bytes(at - begin, what)
        self.at = at
        return data[begin:at]

    def _count_string_bytes(self, num_bytes: int, what: str) -> None:
        self.string_bytes += num_bytes
        if self.string_bytes > _MAX_STRING_BYTES:
            raise self._broken(
                f"has more than {_MAX_STRING_BYTES >> 20} MiB of text up to {what}, more than any model: it is damaged"
            )

    def _unpack(self, fields: str) -> tuple[Any, ...]:
        layout = struct.Struct("<" + fields)
        return layout.unpack(self._take(layout.size, "its header"))

    def _take(self, num_bytes: int, what: str) -> memoryview:
        if num_bytes > self.size - self.at:
            raise self._broken(
                f"ends within {what} ({num_bytes} bytes wanted at {self.at} of {self.size}): it is truncated or damaged"
            )
        taken = self.data[self.at : self.at + num_bytes]
        self.at += num_bytes
        return taken

    def _check_count(self, count: int, min_bytes: int, what: str, max_count: int = _MAX_COUNT) -> None:
        if count * min_bytes > self.size - self.at:
            raise self._broken(
                f"claims {count} {what}, more than its {self.size} bytes can hold: it is truncated or damaged"
            )
        if count > max_count:
            raise self._broken(f"claims {count} {what}; no model has more than {max_count}: it is damaged")

    def _broken(self, reason: str) -> CheckpointError:
        return CheckpointError(f"{self.path} {reason}; fetch it again")
