"""GGUFArray: an array in a GGUF file's metadata, which stays in the file until its values are read."""

import struct
from typing import Any

import numpy as np


class GGUFArray:
    """An array of numbers or strings. The header's reader has checked that all items lie within the file."""

    def __init__(self, data: memoryview, count: int, dtype: np.dtype[Any] | None) -> None:
        """data: the items as in the file. dtype: the numbers' type, or None for length-prefixed strings."""
        self.data = data
        self._count = count
        self._dtype = dtype

    def __len__(self) -> int:
        return self._count

    def __repr__(self) -> str:
        return f"an array of {self._count} {'strings' if self._dtype is None else 'numbers'}"

    def values(self) -> list[Any]:
        """Return all items; bytes that are not UTF-8 become replacement characters."""
        if self._dtype is not None:
            return np.frombuffer(self.data, self._dtype).tolist()
        # A vocabulary has hundreds of thousands of strings: function calls would take most of the time.
        data, end, strings, length_of = self.data, 0, [], struct.Struct("<Q").unpack_from
        for _ in range(self._count):
            start = end + 8
            end = start + length_of(data, end)[0]
            strings.append(str(data[start:end], "utf-8", "replace"))
        return strings


def array_values(value: object) -> list[Any] | None:
    """Return the items of a metadata array in the file or in memory; None for other values."""
    if isinstance(value, GGUFArray):
        return value.values()
    return value if isinstance(value, list) else None
