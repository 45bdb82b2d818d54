"""PagedRun: drives a decoder over hand-made ForwardBatches, with block tables that a test chooses or gets shuffled."""

import dataclasses
import random
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from engine.runner.batch_buffers import BatchBuffers, BatchShape
from engine.scheduling.kv.groups import KVGroup
from models.architecture.attention import AttentionSpec
from models.attention.base import AttentionBackend
from models.batch import ForwardBatch, GroupBatch, KVGroupBatch, StateGroupBatch
from models.decoder import Decoder
from models.kv.layer import LayerCache, LayerState, empty_state, state_parts


@dataclass
class PagedSequence:
    tables: list[list[int]] = field(default_factory=list)  # of each group
    num_computed: int = 0


def in_buffers(batch: ForwardBatch, buffers: BatchBuffers) -> ForwardBatch:
    """The batch as if it had been built in `buffers`; as it is if it has too many rows for that."""
    if len(batch.token_ids) > buffers.max_rows:
        return batch
    attended = [group for group in batch.groups if isinstance(group, KVGroupBatch)]
    width = max(group.block_tables.shape[1] for group in attended)
    rows = (batch.token_ids, batch.positions, batch.logit_rows, *(group.slot_mapping for group in attended))
    buffers.write_rows(*(numbers.tolist() for numbers in rows))
    buffers.write_lengths(batch.cu_seqlens_q.tolist(), batch.context_lens)
    for index, group in enumerate(attended):
        buffers.write_tables(index, group.block_tables.tolist(), width)
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

    def __init__(
        self, decoder: Decoder, backend: AttentionBackend, *, num_blocks: int = 128, block_size: int = 4
    ) -> None:
        self.decoder = decoder
        self.block_size = block_size
        self.device = next(decoder.parameters()).device
        shared: dict[int, torch.Tensor] = {}  # place in the group -> tensor
        self.kv: list[LayerCache] = [torch.empty(0)] * len(decoder.mixers)
        for group in decoder.layer_groups:
            for place, layer in enumerate(group.layers):
                mixer = decoder.mixers[layer]
                if not isinstance(mixer, AttentionSpec):
                    parts = state_parts(mixer, decoder.dtype)
                    state = empty_state(parts, num_blocks, self.device)
                    self.kv[layer] = LayerState(tuple(part.fill_(float("nan")) for part in state.parts))
                    continue
                shape = backend.kv_shape(mixer, num_blocks, block_size)
                fresh = torch.full(shape, float("nan"), dtype=decoder.dtype, device=self.device)
                self.kv[layer] = shared.setdefault(place, fresh)
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
        """Another sequence that shares the blocks of this one, all of which are full."""
        assert sequence.num_computed % self.block_size == 0
        return PagedSequence([list(table) for table in sequence.tables], sequence.num_computed)

    def batch(
        self, items: list[tuple[PagedSequence, list[int]]], adapter_slots: Sequence[int] | None = None
    ) -> ForwardBatch:
        """The batch of one step with logits of every row. adapter_slots: as `step` takes them."""
        positions: list[int] = []
        for sequence, tokens in items:
            end = sequence.num_computed + len(tokens)
            sequence.tables = sequence.tables or [[] for _ in self.decoder.layer_groups]
            for table in sequence.tables:
                while len(table) * self.block_size < end:
                    table.append(self.free_blocks.pop())
            positions += range(sequence.num_computed, end)
        query_lens = [len(tokens) for _, tokens in items]
        context_lens = [sequence.num_computed + len(tokens) for sequence, tokens in items]
        offsets = torch.tensor([0, *query_lens]).cumsum(0)
        return ForwardBatch(
            token_ids=self._tensor([token for _, tokens in items for token in tokens]),
            positions=self._tensor(positions),
            cu_seqlens_q=offsets.to(self.device, torch.int32),
            seq_lens=self._tensor(context_lens, torch.int32),
            groups=tuple(self._group_batch(index, items) for index in range(len(self.decoder.layer_groups))),
            logit_rows=torch.arange(len(positions), device=self.device),
            query_lens=tuple(query_lens),
            context_lens=tuple(context_lens),
            block_size=self.block_size,
            adapter_slots=None if adapter_slots is None else self._slots_of_rows(items, adapter_slots),
        )

    def _slots_of_rows(
        self, items: list[tuple[PagedSequence, list[int]]], adapter_slots: Sequence[int]
    ) -> torch.Tensor:
        slots = [slot for slot, (_, tokens) in zip(adapter_slots, items, strict=True) for _ in tokens]
        return self._tensor(slots, torch.int32)

    def _group_batch(self, index: int, items: list[tuple[PagedSequence, list[int]]]) -> GroupBatch:
        group = self.decoder.layer_groups[index]
        if group.is_state:
            return self._state_batch(index, items)
        rule = KVGroup(self.block_size, group.window, is_chunked=group.is_chunked)
        slots: list[int] = []
        tables: list[list[int]] = []
        for sequence, tokens in items:
            start, table = sequence.num_computed, sequence.tables[index]
            for position in range(start, start + len(tokens)):
                slots.append(table[position // self.block_size] * self.block_size + position % self.block_size)
            first = rule.first_needed_entry(start)
            tables.append([self._unreadable] * first + table[first:])
        widest = max(map(len, tables))
        padded = [table + [self._unreadable] * (widest - len(table)) for table in tables]
        return KVGroupBatch(self._tensor(slots), self._tensor(padded, torch.int32))

    def _state_batch(self, index: int, items: list[tuple[PagedSequence, list[int]]]) -> StateGroupBatch:
        """A state is written for every full block, and for the last, which is not full."""
        sources, targets = [], []
        for sequence, tokens in items:
            start, table = sequence.num_computed, sequence.tables[index]
            end = start + len(tokens)
            sources.append(table[(start - 1) // self.block_size] if start else -1)
            for num_tokens in range(start + 1, end + 1):
                is_written = num_tokens == end or num_tokens % self.block_size == 0
                targets.append(table[(num_tokens - 1) // self.block_size] if is_written else -1)
        query_lens = [len(tokens) for _, tokens in items]
        return StateGroupBatch(
            sources=self._tensor(sources, torch.int32),
            targets=self._tensor(targets, torch.int32),
            cu_seqlens=self._tensor([0, *query_lens]).cumsum(0).to(torch.int32),
            speculative_rows=None,
            query_lens=tuple(query_lens),
            source_blocks=tuple(sources),
            target_blocks=tuple(targets),
        )

    @property
    def _unreadable(self) -> int:
        """A block that nobody writes to, so that it stays NaN."""
        return self.free_blocks[0]

    def _tensor(self, values: list, dtype: torch.dtype = torch.int64) -> torch.Tensor:
        return torch.tensor(values, dtype=dtype, device=self.device)
