"""PagedRun: drives a decoder over hand-made ForwardBatches, with block tables that a test chooses or gets shuffled."""

import dataclasses
import random
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from engine.runner.batch_buffers import BatchBuffers, BatchShape
from engine.runner.executors.recorded import RecordedExecutor
from engine.scheduling.kv.groups import KVGroup
from models.batch import ForwardBatch, KVGroupBatch, StateGroupBatch, forward_batch
from models.decoder import Decoder
from models.kernels.cpu.library import required_library
from models.kv.layer import LayerCache, LayerKV


@dataclass
class PagedSequence:
    tables: list[list[int]] = field(default_factory=list)  # of each group
    num_computed: int = 0


def in_buffers(batch: ForwardBatch, buffers: BatchBuffers) -> ForwardBatch:
    """The batch as if it had been built in `buffers`; as it is if it has too many rows for that."""
    if len(batch.token_ids) > buffers.max_rows:
        return batch
    attended = [group for group in batch.groups if isinstance(group, KVGroupBatch)]
    width = max((group.block_tables.shape[1] for group in attended), default=0)
    rows = (batch.token_ids, batch.positions, batch.logit_rows, *(group.slot_mapping for group in attended))
    buffers.write_rows(*(numbers.tolist() for numbers in rows))
    buffers.write_lengths(batch.cu_seqlens_q.tolist(), batch.context_lens)
    for index, group in enumerate(attended):
        for place, (table, end) in enumerate(zip(group.block_tables.tolist(), batch.context_lens, strict=True)):
            buffers.tables.write(index, place, table, 0, end)
    if batch.adapter_slots is not None:
        buffers.write_adapter_slots(batch.adapter_slots.tolist())
    shape = BatchShape(len(batch.token_ids), len(batch.context_lens), len(batch.logit_rows), width)
    tensors = buffers.tensors(shape, batch.token_ids.device)
    groups = iter(tensors.groups)
    return dataclasses.replace(
        batch,
        token_ids=tensors.token_ids,
        positions=tensors.positions,
        cu_seqlens_q=tensors.cu_seqlens_q,
        seq_lens=tensors.seq_lens,
        groups=tuple(next(groups) if isinstance(group, KVGroupBatch) else group for group in batch.groups),
        logit_rows=tensors.logit_rows,
        adapter_slots=None if batch.adapter_slots is None else tensors.adapter_slots,
    )


class PagedRun:
    """KV tensors of all layers and the tables of any number of sequences.

    Blocks are handed out in a shuffled order, fresh KV memory is NaN, and table entries out of the window lead to
    NaN: a read of a wrong or unwritten slot cannot go unnoticed.
    """

    def __init__(self, decoder: Decoder, *, num_blocks: int = 128, block_size: int = 4) -> None:
        self.decoder = decoder
        self.block_size, self.num_blocks = block_size, num_blocks
        self.device = next(decoder.parameters()).device
        self.groups = decoder.cache_layout.groups
        self.block_sizes = decoder.cache_layout.block_sizes(block_size)
        self.kv = decoder.cache_layout.allocate(num_blocks, block_size, self.device, num_states=num_blocks)
        for cache in self.kv:
            fill(cache, float("nan"))
        self.free_blocks = list(range(num_blocks))
        random.Random(7).shuffle(self.free_blocks)

    def step(
        self, items: list[tuple[PagedSequence, list[int]]], adapter_slots: Sequence[int] | None = None
    ) -> list[torch.Tensor]:
        """Feed each sequence its next tokens; returns their logits, [tokens, V] a sequence.

        adapter_slots: of each sequence, -1 for none.
        """
        batch = self.batch(items, adapter_slots)
        with torch.inference_mode():
            hidden = self.decoder(batch, self.kv)[batch.logit_rows]
            logits = self.decoder.logits(hidden, batch.adapter_slots)  # of every row
        for sequence, tokens in items:
            sequence.num_computed += len(tokens)
        return list(logits.split([len(tokens) for _, tokens in items]))

    def fork(self, sequence: PagedSequence) -> PagedSequence:
        """Another sequence that shares the full blocks of this one, and has a copy of the last, if that is not full."""
        assert sequence.num_computed % self.block_size == 0
        tables = [list(table) for table in sequence.tables]
        for group, size, table in zip(self.groups, self.block_sizes, tables, strict=True):
            if sequence.num_computed % size:
                last, table[-1] = table[-1], self.free_blocks.pop()
                for layer in group.layers:
                    copy_block(self.kv[layer], last, table[-1], self.num_blocks)
        return PagedSequence(tables, sequence.num_computed)

    def batch(
        self, items: list[tuple[PagedSequence, list[int]]], adapter_slots: Sequence[int] | None = None
    ) -> ForwardBatch:
        """The batch of one step with logits of every row. adapter_slots: as `step` takes them."""
        for sequence, tokens in items:
            sequence.tables = sequence.tables or [[] for _ in self.groups]
            for size, table in zip(self.block_sizes, sequence.tables, strict=True):
                while len(table) * size < sequence.num_computed + len(tokens):
                    table.append(self.free_blocks.pop())
        token_ids = [token for _, tokens in items for token in tokens]
        is_state = [group.is_state for group in self.groups]
        return forward_batch(
            token_ids,
            [len(tokens) for _, tokens in items],
            [self._table(index, items) for index in range(len(self.groups)) if not is_state[index]],
            block_size=self.block_size,
            block_sizes=[size for size, state in zip(self.block_sizes, is_state, strict=True) if not state],
            device=self.device,
            starts=[sequence.num_computed for sequence, _ in items],
            states=self._state_batch(len(self.groups) - 1, items) if any(is_state) else None,
            logit_rows=torch.arange(len(token_ids), device=self.device),
            adapter_slots=None if adapter_slots is None else self._slots_of_rows(items, adapter_slots),
        )

    def _slots_of_rows(
        self, items: list[tuple[PagedSequence, list[int]]], adapter_slots: Sequence[int]
    ) -> torch.Tensor:
        slots = [slot for slot, (_, tokens) in zip(adapter_slots, items, strict=True) for _ in tokens]
        return torch.tensor(slots, dtype=torch.int32, device=self.device)

    def _table(self, index: int, items: list[tuple[PagedSequence, list[int]]]) -> torch.Tensor:
        group = self.groups[index]
        rule = KVGroup(self.block_sizes[index], group.window, is_chunked=group.is_chunked)
        tables: list[list[int]] = []
        for sequence, _ in items:
            first = rule.first_needed_entry(sequence.num_computed)
            tables.append([self._unreadable] * first + sequence.tables[index][first:])
        widest = max(map(len, tables))
        return torch.tensor([table + [self._unreadable] * (widest - len(table)) for table in tables], dtype=torch.int32)

    def _state_batch(self, index: int, items: list[tuple[PagedSequence, list[int]]]) -> StateGroupBatch:
        """A state is written for every full block, and for the last, which is not full."""
        sources, targets = [], []
        size = self.block_sizes[index]
        for sequence, tokens in items:
            start, table = sequence.num_computed, sequence.tables[index]
            end = start + len(tokens)
            sources.append(table[(start - 1) // size] if start else -1)
            for num_tokens in range(start + 1, end + 1):
                is_written = num_tokens == end or num_tokens % size == 0
                targets.append(table[(num_tokens - 1) // size] if is_written else -1)
        return StateGroupBatch.from_blocks([len(tokens) for _, tokens in items], sources, targets, self.device)

    @property
    def _unreadable(self) -> int:
        """A block that is not written, so that it stays NaN."""
        return self.free_blocks[0]


def recorded_on(run: PagedRun) -> RecordedExecutor:
    """An executor that records the steps of a run's decoder, on the run's caches."""
    sizes = [size for size, group in zip(run.block_sizes, run.groups, strict=True) if not group.is_state]
    groups = list(map(KVGroup, sizes))  # without windows: entries out of them are kept, and lead to NaN
    return RecordedExecutor(run.decoder, run.kv, required_library(), max_blocks=64, groups=groups)


def copy_block(cache: LayerCache, source: int, target: int, num_blocks: int) -> None:
    """Copy a block of a layer's keys and values, or a state."""
    for part in cache.parts.values() if isinstance(cache, LayerKV) else cache.parts:
        blocks = part.view(num_blocks, -1)
        blocks[target] = blocks[source]


def fill(cache: LayerCache, value: float) -> None:
    """Fill all tensors of a layer's cache. NaN makes all bits of codes and their scales 1: such scales are NaN, too."""
    for part in cache.parts.values() if isinstance(cache, LayerKV) else cache.parts:
        if part.dtype.itemsize == 1 and value != value:
            part.view(torch.uint8).fill_(0xFF)
        else:
            part.fill_(value)
