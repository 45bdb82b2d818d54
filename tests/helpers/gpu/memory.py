"""Memory of a kernel launch, watched: accesses out of bounds, and races between programs."""

from collections.abc import Sequence

import numpy as np
import torch

_NONE, _SEVERAL = -1, -2  # besides the number of a program


class WatchedMemory:
    """The storages of a launch's tensors, and which program read and wrote each address.

    Elements count by their first byte. An access at the same address by programs of which one writes is a race: on a
    GPU they run at the same time. Atomic operations are no races.
    """

    def __init__(self, tensors: Sequence[torch.Tensor]) -> None:
        storages = {(each.data_ptr(), each.nbytes()) for each in (tensor.untyped_storage() for tensor in tensors)}
        storages = {(start, size) for start, size in storages if size}
        self._starts = np.array([start for start, _ in sorted(storages)], dtype=np.uint64)
        sizes = np.array([size for _, size in sorted(storages)], dtype=np.uint64)
        self._ends = self._starts + sizes
        self._offsets = np.cumsum(sizes) - sizes  # of each storage's bytes in the arrays below
        self._readers = np.full(int(sizes.sum()), _NONE, dtype=np.int32)
        self._writers = np.full(int(sizes.sum()), _NONE, dtype=np.int32)
        self.fault: str | None = None  # the first one

    def read(self, program: int, addresses: np.ndarray, mask: np.ndarray, size: int) -> None:
        """Note a read of elements of `size` bytes where `mask` holds. Raises AssertionError on a fault."""
        bytes_ = self.check_bounds(addresses, mask, size)
        writers = self._writers[bytes_]
        self._refuse(np.any((writers != _NONE) & (writers != program)), "reads what another program writes", program)
        readers = self._readers[bytes_]
        self._readers[bytes_] = np.where((readers == _NONE) | (readers == program), program, _SEVERAL)

    def write(self, program: int, addresses: np.ndarray, mask: np.ndarray, size: int) -> None:
        """Note a write of elements of `size` bytes where `mask` holds. Raises AssertionError on a fault."""
        bytes_ = self.check_bounds(addresses, mask, size)
        for users, what in ((self._writers, "writes"), (self._readers, "reads")):
            found = users[bytes_]
            self._refuse(np.any((found != _NONE) & (found != program)), f"writes what another program {what}", program)
        self._writers[bytes_] = program

    def check_bounds(self, addresses: np.ndarray, mask: np.ndarray, size: int) -> np.ndarray:
        """Return the positions of the addresses that are used. Raises AssertionError on one outside of all tensors."""
        used = np.broadcast_to(addresses, np.broadcast_shapes(addresses.shape, mask.shape))
        used = used[np.broadcast_to(mask, used.shape).astype(bool)].astype(np.uint64)
        storage = np.searchsorted(self._starts, used, side="right").astype(np.int64) - 1
        is_outside = (storage < 0) | (used + np.uint64(size) > self._ends[np.maximum(storage, 0)])
        self._refuse(np.any(is_outside), f"{np.sum(is_outside)} of {used.size} addresses are outside of its tensors")
        return (used - self._starts[storage] + self._offsets[storage]).astype(np.int64)

    def _refuse(self, is_fault: np.bool_, what: str, program: int | None = None) -> None:
        if is_fault:
            self.fault = what if program is None else f"program {program} {what}"
            raise AssertionError(self.fault)
