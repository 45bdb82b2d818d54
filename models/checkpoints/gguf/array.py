"""GGUFArray: an array of a GGUF file's metadata, which stays in the file until its values are asked for."""

import struct
from typing import Any

import numpy as np


class GGUFArray:
    """Its bytes lie within the file, and texts within the array: whoever made it has checked that."""

    def __init__(self, data: memoryview, count: int, number: np.dtype[Any] | None) -> None:
        """data: the items as in the file. number: their type, or None for texts, each behind its length."""
        self.data = data
        self._count = count
        self._number = number

    def __len__(self) -> int:
        return self._count

    def __repr__(self) -> str:
        return f"an array of {self._count} {'texts' if self._number is None else 'numbers'}"

    def values(self) -> list[Any]:
        """All items; bytes of texts that are not UTF-8 become replacement characters."""
        if self._number is not None:
            return np.frombuffer(self.data, self._number).tolist()
        # A vocabulary has hundreds of thousands, so that calls would take most of the time.
        data, end, texts, length_of = self.data, 0, [], struct.Struct("<Q").unpack_from
        for _ in range(self._count):
            start = end + 8
            end = start + length_of(data, end)[0]
            texts.append(str(data[start:end], "utf-8", "replace"))
        return texts


def array_values(value: object) -> list[Any] | None:
    """The items of a metadata array, in a file or in memory; None for anything else."""
    if isinstance(value, GGUFArray):
        return value.values()
    return value if isinstance(value, list) else None
