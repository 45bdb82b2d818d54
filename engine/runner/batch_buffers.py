"""BatchBuffers: the numbers of a step on the host, in one buffer for each type."""

from array import array
from collections.abc import Sequence
from typing import NamedTuple

import torch

from models.batch import ForwardBatch, KVGroupBatch


class BatchShape(NamedTuple):
    """Numbers of rows, sequences, rows that need logits, and entries of the widest block table."""

    rows: int
    sequences: int
    logit_rows: int
    width: int


class BatchTensors(NamedTuple):
    """The numbers as tensors on the device; see ForwardBatch. groups: groups with keys and values."""

    token_ids: torch.Tensor
    positions: torch.Tensor
    logit_rows: torch.Tensor
    cu_seqlens_q: torch.Tensor
    seq_lens: torch.Tensor
    adapter_slots: torch.Tensor
    groups: list[KVGroupBatch]


class BatchBuffers:
    """Buffers for a step of up to `max_rows` rows. On a CPU they are used again for each step: their addresses do not
    change, so that tapes can read from them."""

    def __init__(self, max_rows: int, max_sequences: int, max_blocks: int, num_groups: int) -> None:
        """max_blocks: widest block table. num_groups: KV groups, without recurrent states."""
        self.max_rows = max_rows
        self._max_sequences = max_sequences
        self._max_blocks = max_blocks
        self._num_groups = num_groups
        self._longs = array("q", bytes(8 * max_rows * (3 + num_groups)))
        self._num_lengths = 2 * max_sequences + 1
        self._ints = array("i", bytes(4 * (self._num_lengths + max_rows + num_groups * max_sequences * max_blocks)))
        self._last: tuple[BatchShape, BatchTensors] | None = None

    def contains(self, batch: ForwardBatch) -> bool:
        """Whether the batch was built here."""
        return batch.token_ids.data_ptr() == self._longs.buffer_info()[0]

    def write_rows(self, *columns: Sequence[int]) -> None:
        """Write token_ids, positions, logit_rows, and the slots of each group."""
        for place, numbers in enumerate(columns):
            start = place * self.max_rows
            self._longs[start : start + len(numbers)] = array("q", numbers)

    def write_lengths(self, row_ends: Sequence[int], context_lens: Sequence[int]) -> None:
        """Write where each sequence's rows end, and the lengths of contexts. row_ends: starts with a 0."""
        self._ints[: len(row_ends)] = array("i", row_ends)
        start = self._max_sequences + 1
        self._ints[start : start + len(context_lens)] = array("i", context_lens)

    def write_adapter_slots(self, slots: Sequence[int]) -> None:
        """Write the adapter slot of each row; -1 for rows without an adapter."""
        self._ints[self._num_lengths : self._num_lengths + len(slots)] = array("i", slots)

    def write_tables(self, group: int, tables: Sequence[Sequence[int]], width: int) -> None:
        """Write the block tables of a group, each filled up with 0 to `width`."""
        start = self._num_lengths + self.max_rows + group * self._max_sequences * self._max_blocks
        for table in tables:
            self._ints[start : start + width] = array("i", [*table, *[0] * (width - len(table))])
            start += self._max_blocks

    def tensors(self, shape: BatchShape, device: torch.device) -> BatchTensors:
        """Return views of the numbers that a step of this shape has written; on other devices than the CPU, of copies.

        Most steps have the shape of the last one, and then no view is made.
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
        tables = tables.view(self._num_groups, self._max_sequences, self._max_blocks)
        token_ids, positions, logit_rows, *slots = longs
        return BatchTensors(
            token_ids[: shape.rows],
            positions[: shape.rows],
            logit_rows[: shape.logit_rows],
            starts[: shape.sequences + 1],
            lengths[: shape.sequences],
            slots_of_adapters[: shape.rows],
            [
                KVGroupBatch(slots[group][: shape.rows], tables[group, : shape.sequences, : shape.width])
                for group in range(self._num_groups)
            ],
        )
