"""BatchBuffers: host-side staging of a step's inputs, in one buffer per dtype and one for block tables."""

from array import array
from collections.abc import Sequence
from typing import NamedTuple

import torch

from engine.runner.block_tables import BlockTables
from models.batch import ForwardBatch, KVGroupBatch
from models.system.cuda import staged
from models.system.memory import is_host


class BatchShape(NamedTuple):
    """Sizes of a step's inputs. width: entries of the longest block table."""

    rows: int
    sequences: int
    logit_rows: int
    width: int


class BatchTensors(NamedTuple):
    """A step's inputs as tensors on the device; see ForwardBatch. groups: slots and block tables of each KV group."""

    token_ids: torch.Tensor
    positions: torch.Tensor
    logit_rows: torch.Tensor
    cu_seqlens_q: torch.Tensor
    seq_lens: torch.Tensor
    adapter_slots: torch.Tensor
    groups: list[KVGroupBatch]


class BatchBuffers:
    """Host buffers for the inputs of a step of up to `max_rows` rows. On a CPU, every step uses the same memory, so
    that recorded tapes can read from its addresses."""

    def __init__(self, max_rows: int, tables: BlockTables) -> None:
        """tables: of the sequences, by their order in the batch; other buffers may use them too."""
        self.max_rows = max_rows
        self.tables = tables
        self._longs = array("q", bytes(8 * max_rows * (3 + len(tables.groups))))
        self._num_lengths = 2 * tables.max_sequences + 1
        self._ints = array("i", bytes(4 * (self._num_lengths + max_rows)))
        self._last: tuple[BatchShape, BatchTensors] | None = None

    def contains(self, batch: ForwardBatch) -> bool:
        """Whether the batch's tensors are views of these buffers."""
        return batch.token_ids.data_ptr() == self._longs.buffer_info()[0]

    def write_rows(self, *columns: Sequence[int]) -> None:
        """Write the per-row inputs: token_ids, positions, logit_rows, and the KV slots of each group."""
        for place, numbers in enumerate(columns):
            start = place * self.max_rows
            self._longs[start : start + len(numbers)] = array("q", numbers)

    def write_lengths(self, row_ends: Sequence[int], context_lens: Sequence[int]) -> None:
        """Write the sequences' row offsets and context lengths. row_ends: cumulative row counts, starting with 0."""
        self._ints[: len(row_ends)] = array("i", row_ends)
        start = self.tables.max_sequences + 1
        self._ints[start : start + len(context_lens)] = array("i", context_lens)

    def write_adapter_slots(self, slots: Sequence[int]) -> None:
        """Write the adapter slot of each row; -1 for rows without an adapter."""
        self._ints[self._num_lengths : self._num_lengths + len(slots)] = array("i", slots)

    def of_rows(self, max_rows: int) -> "BatchBuffers":
        """Make larger buffers with the same tables, for one step."""
        return BatchBuffers(max_rows, self.tables)

    def tensors(self, shape: BatchShape, device: torch.device) -> BatchTensors:
        """Return the written inputs as tensors: views on a CPU, copies on other devices.

        The views are reused while consecutive steps have the same shape, as most do. Copies are not, since they would
        be of the inputs of the step before.
        """
        if not is_host(device):
            return self._views(shape, *(_sent(each, device) for each in self._on_host()))
        if self._last is None or self._last[0] != shape:
            self._last = shape, self._views(shape, *self._on_host())
        return self._last[1]

    def _on_host(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        longs = torch.frombuffer(self._longs, dtype=torch.int64)
        return longs, torch.frombuffer(self._ints, dtype=torch.int32), self.tables.tensor()

    def _views(self, shape: BatchShape, longs: torch.Tensor, ints: torch.Tensor, tables: torch.Tensor) -> BatchTensors:
        starts, lengths, slots_of_adapters = ints.tensor_split([self.tables.max_sequences + 1, self._num_lengths])
        token_ids, positions, logit_rows, *slots = longs.view(-1, self.max_rows)
        return BatchTensors(
            token_ids[: shape.rows],
            positions[: shape.rows],
            logit_rows[: shape.logit_rows],
            starts[: shape.sequences + 1],
            lengths[: shape.sequences],
            slots_of_adapters[: shape.rows],
            [
                KVGroupBatch(
                    slots[index][: shape.rows], tables[index, : shape.sequences, : shape.width], group.block_size
                )
                for index, group in enumerate(self.tables.groups)
            ],
        )


def _sent(host: torch.Tensor, device: torch.device) -> torch.Tensor:
    return staged(host, device).to(device, non_blocking=True)
