"""DeviceBuffers: a step's inputs at fixed addresses on a device, so that captured steps read them."""

from array import array
from collections.abc import Sequence

import torch

from engine.runner.batch_buffers import BatchBuffers, BatchShape, BatchTensors
from engine.runner.block_tables import BlockTables
from engine.scheduling.kv.groups import KVGroup
from models.batch import ForwardBatch
from models.system.cuda import staged


class DeviceTables(BlockTables):
    """Block tables that a device has, too. Only the entries that a step changes are copied to it."""

    def __init__(self, groups: Sequence[KVGroup], max_sequences: int, max_blocks: int, device: torch.device) -> None:
        super().__init__(groups, max_sequences, max_blocks)
        self._on_device = torch.zeros((len(groups), max_sequences, max_blocks), dtype=torch.int32, device=device)
        self._changes: dict[int, int] = {}  # by index of the entry

    def _store(self, start: int, entries: "array[int]") -> None:
        super()._store(start, entries)
        self._changes.update(enumerate(entries, start))

    def updated(self) -> torch.Tensor:
        """Copy what has changed since the last call; return the device's tables, at the same address every time."""
        if self._changes:
            changes = torch.tensor([*self._changes, *self._changes.values()])
            device = self._on_device.device
            indices, entries = staged(changes, device).to(device, non_blocking=True).chunk(2)
            self._on_device.view(-1).index_copy_(0, indices, entries.to(torch.int32))
            self._changes.clear()
        return self._on_device


class DeviceBuffers(BatchBuffers):
    """Buffers on the host that a step copies to a device in one piece, always to the same memory.

    Block tables have all their columns in every step. After a step's own rows come rows of padding, each a sequence of
    its own, for captured steps of more rows: they have no KV slot and no adapter (-1), and a context of length 0.
    """

    def __init__(self, max_rows: int, tables: DeviceTables, device: torch.device) -> None:
        super().__init__(max_rows, tables)
        self._device_tables, self._device = tables, device
        num_bytes = sum(each.itemsize * len(each) for each in (self._longs, self._ints))
        self._memory = torch.empty(num_bytes, dtype=torch.uint8, device=device)

    def of_rows(self, max_rows: int) -> BatchBuffers:
        return DeviceBuffers(max_rows, self._device_tables, self._device)

    def contains(self, batch: ForwardBatch) -> bool:
        return batch.token_ids.data_ptr() == self._memory.data_ptr()

    def tensors(self, shape: BatchShape, device: torch.device) -> BatchTensors:
        """Copy the written inputs to the device, and return views of its memory."""
        self._pad(shape)
        host = torch.frombuffer(bytearray(b"".join((self._longs, self._ints))), dtype=torch.uint8)
        self._memory.copy_(staged(host, device), non_blocking=True)
        self._device_tables.updated()
        return self.views(shape)

    def views(self, shape: BatchShape) -> BatchTensors:
        """Return the device's memory as the inputs of a step."""
        longs, ints = self._memory.tensor_split([self._longs.itemsize * len(self._longs)])
        shape = shape._replace(width=self.tables.max_blocks)
        return self._views(shape, longs.view(torch.int64), ints.view(torch.int32), self._device_tables.updated())

    def _pad(self, shape: BatchShape) -> None:
        first, most = shape.sequences, self.tables.max_sequences
        self._ints[first + 1 : most + 1] = array("i", range(shape.rows + 1, shape.rows + 1 + most - first))
        self._ints[most + 1 + first : self._num_lengths] = array("i", bytes(4 * (most - first)))
        self._ints[self._num_lengths + shape.rows :] = array("i", [-1]) * (self.max_rows - shape.rows)
        for index in range(len(self.tables.groups)):
            start = (3 + index) * self.max_rows
            self._longs[start + shape.rows : start + self.max_rows] = array("q", [-1]) * (self.max_rows - shape.rows)
