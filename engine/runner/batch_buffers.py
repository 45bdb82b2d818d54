"""BatchBuffers: host-side staging of a step's inputs, in one buffer per dtype."""

from array import array
from collections.abc import Sequence
from typing import NamedTuple

import torch

from models.batch import ForwardBatch, KVGroupBatch


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

    def __init__(self, max_rows: int, max_sequences: int, max_blocks: int, block_sizes: Sequence[int]) -> None:
        """max_blocks: most entries of a block table. block_sizes: of the KV groups, not counting recurrent states."""
        self.max_rows = max_rows
        self._max_sequences = max_sequences
        self._max_blocks = max_blocks
        self._block_sizes = block_sizes
        num_groups = len(block_sizes)
        self._longs = array("q", bytes(8 * max_rows * (3 + num_groups)))
        self._num_lengths = 2 * max_sequences + 1
        self._ints = array("i", bytes(4 * (self._num_lengths + max_rows + num_groups * max_sequences * max_blocks)))
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
        start = self._max_sequences + 1
        self._ints[start : start + len(context_lens)] = array("i", context_lens)

    def write_adapter_slots(self, slots: Sequence[int]) -> None:
        """Write the adapter slot of each row; -1 for rows without an adapter."""
        self._ints[self._num_lengths : self._num_lengths + len(slots)] = array("i", slots)

    def write_tables(self, group: int, tables: Sequence[Sequence[int]], width: int) -> None:
        """Write the block tables of a group, each padded with 0 to `width` entries."""
        start = self._num_lengths + self.max_rows + group * self._max_sequences * self._max_blocks
        for table in tables:
            self._ints[start : start + width] = array("i", [*table, *[0] * (width - len(table))])
            start += self._max_blocks

    def tensors(self, shape: BatchShape, device: torch.device) -> BatchTensors:
        """Return the written inputs as tensors: views on a CPU, copies on other devices.

        The views are reused while consecutive steps have the same shape, as most do.
        """
        if self._last is None or self._last[0] != shape:
            self._last = shape, self._views(shape, device)
        return self._last[1]

    def _views(self, shape: BatchShape, device: torch.device) -> BatchTensors:
        longs = torch.frombuffer(self._longs, dtype=torch.int64).to(device).view(-1, self.max_rows)
        ints = torch.frombuffer(self._ints, dtype=torch.int32).to(device)
        starts, lengths, slots_of_adapters, tables = ints.tensor_split(
            [self._max_sequences + 1, self._num_lengths, self._num_lengths + self.max_rows]
        )
        tables = tables.view(len(self._block_sizes), self._max_sequences, self._max_blocks)
        token_ids, positions, logit_rows, *slots = longs
        return BatchTensors(
            token_ids[: shape.rows],
            positions[: shape.rows],
            logit_rows[: shape.logit_rows],
            starts[: shape.sequences + 1],
            lengths[: shape.sequences],
            slots_of_adapters[: shape.rows],
            [
                KVGroupBatch(slots[group][: shape.rows], tables[group, : shape.sequences, : shape.width], block_size)
                for group, block_size in enumerate(self._block_sizes)
            ],
        )
