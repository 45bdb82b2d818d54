"""ForwardBatch: one step's token rows and where their KV lives; an explicit argument of every forward."""

import bisect
import dataclasses
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

import torch


@dataclass(frozen=True, slots=True, eq=False)
class KVGroupBatch:
    """KV cache addresses of one KV group: layers that see the same positions (kv/groups.py).

    slot_mapping: [T] int64, slot (block * block_size + offset) that each row's K and V are written to.
    block_tables: [S, M] int32, each sequence's blocks in order of position, 0 where there is none: after the end, and
    before the window of the first row. block_size: positions in a block of this group.
    """

    slot_mapping: torch.Tensor
    block_tables: torch.Tensor
    block_size: int


@dataclass(frozen=True, slots=True, eq=False)
class StateGroupBatch:
    """State addresses of the recurrent layers' group, in which each block holds one state.

    sources: [S] int32, block of the state that each sequence continues from, -1 for a new sequence.
    targets: [T] int32, block that takes the state after each row, -1 where it is not stored.
    cu_seqlens: [S + 1] int32, row offsets of each sequence.
    speculative_rows: [n] int64, rows of sequences with a draft, which may be rejected. They have no targets; each layer
    keeps its inputs for them (LayerState.pending_rows), and `Decoder.commit_states` runs the accepted ones through the
    recurrence. None if there are no such rows.
    query_lens, source_blocks and target_blocks are copies of lengths, sources and targets on the host.
    """

    sources: torch.Tensor
    targets: torch.Tensor
    cu_seqlens: torch.Tensor
    speculative_rows: torch.Tensor | None
    query_lens: tuple[int, ...]
    source_blocks: tuple[int, ...]
    target_blocks: tuple[int, ...]

    @classmethod
    def from_blocks(
        cls, lengths: Sequence[int], sources: Sequence[int], targets: Sequence[int], device: torch.device
    ) -> "StateGroupBatch":
        """Return the addresses of a step without drafts.

        lengths: rows of each sequence. sources: block of the state that each sequence continues from, -1 for a new
        sequence. targets: block that takes the state after each row, -1 where it is not stored.
        """
        return cls(
            sources=torch.tensor(sources, dtype=torch.int32, device=device),
            targets=torch.tensor(targets, dtype=torch.int32, device=device),
            cu_seqlens=torch.tensor([0, *lengths], device=device).cumsum(0).to(torch.int32),
            speculative_rows=None,
            query_lens=tuple(lengths),
            source_blocks=tuple(sources),
            target_blocks=tuple(targets),
        )


GroupBatch = KVGroupBatch | StateGroupBatch


@dataclass(frozen=True, slots=True, eq=False)
class DistanceBias:
    """Bias of each head's scores by the distance of a key from its query, the same in all layers.

    table: [H, MARGIN + 2 * reach + 1 + MARGIN] fp32, for distances -reach .. reach. The margins are padding,
    since kernels read whole vectors.
    """

    MARGIN: ClassVar[int] = 16

    table: torch.Tensor
    reach: int

    @property
    def zero_column(self) -> int:
        return self.MARGIN + self.reach


@dataclass(slots=True, eq=False)
class StepChoice:
    """Positions that the last layer with an indexer chose for each row, for the layers after it.

    positions: [T, topk] int32, as AttentionBackend.choose returns them; None if rows see their whole context.
    """

    positions: torch.Tensor | None = None


@dataclass(slots=True, eq=False)
class FirstValues:
    """Values of a recurrence in the first layer, which those in later layers mix with their own.

    rows: [T, channels], in the dtype of activations; None before that layer.
    """

    rows: torch.Tensor | None = None


@dataclass(frozen=True, slots=True, eq=False)
class ForwardBatch:
    """Rows of all sequences of a step, sequence after sequence. Nothing distinguishes prefill chunks from decodes.

    token_ids: [T] int64. positions: [T] int64. cu_seqlens_q: [S + 1] int32, row offsets of each sequence.
    seq_lens: [S] int32, context length of each sequence after this step (its rows included).
    logit_rows: [L] int64, rows whose logits are needed.
    logit_lens: [S] number of each sequence's logit rows, which are its last rows, on the host; None if not known.
    adapter_slots: [T] int32, the slot of each row's adapter (`ModelDecoder.set_adapter`), -1 for rows without one; None
    if no row has one.
    distance_bias: set by the decoder before its layers run, if attention has a bias by distance.
    layer_inputs: [T, layers, size], set by `Decoder.with_layer_inputs`, if layers have inputs besides the residual
    stream.
    All tensors are on the model's device. query_lens and context_lens are the host's copy of the lengths, so that
    nothing has to be read back.
    """

    token_ids: torch.Tensor
    positions: torch.Tensor
    cu_seqlens_q: torch.Tensor
    seq_lens: torch.Tensor
    groups: tuple[GroupBatch, ...]  # in the order of CacheLayout.groups
    logit_rows: torch.Tensor
    query_lens: tuple[int, ...]  # [S] rows of each sequence
    context_lens: tuple[int, ...]  # [S] seq_lens
    logit_lens: tuple[int, ...] | None = None
    adapter_slots: torch.Tensor | None = None
    token_type_ids: torch.Tensor | None = None  # [T] int64; None: all 0, or the model has no types
    distance_bias: DistanceBias | None = None
    layer_inputs: torch.Tensor | None = None
    # Written by layers; of one forward pass at a time.
    choice: StepChoice = field(default_factory=StepChoice)
    first_values: FirstValues = field(default_factory=FirstValues)


class NarrowedBatch(NamedTuple):
    """A part of a batch's rows. rows: [n] int64, their indices. output_rows: [L] indices among these; None: all."""

    batch: ForwardBatch
    rows: torch.Tensor
    output_rows: torch.Tensor | None


def narrow_batch(batch: ForwardBatch, output_rows: torch.Tensor) -> NarrowedBatch:
    """Return the batch from each sequence's first output row to its last, as if its context ended there.

    Sequences without output rows are left out. For layers that write no keys, values and states: rows after a
    sequence's last output row are in the cache, but causal attention does not see them.
    """
    if output_rows is batch.logit_rows and batch.logit_lens is not None and max(batch.logit_lens) <= 1:
        return _narrowed_to_last_rows(batch, batch.logit_lens)
    numbers = output_rows.tolist()
    ends = list(itertools.accumulate(batch.query_lens))
    first: dict[int, int] = {}  # of each sequence with output rows
    last: dict[int, int] = {}
    for row in sorted(numbers):
        sequence = bisect.bisect_right(ends, row)
        first.setdefault(sequence, row)
        last[sequence] = row
    rows = [row for sequence in first for row in range(first[sequence], last[sequence] + 1)]
    lengths = [last[sequence] + 1 - first[sequence] for sequence in first]
    contexts = [batch.context_lens[sequence] - (ends[sequence] - last[sequence] - 1) for sequence in first]
    index_of = {row: index for index, row in enumerate(rows)}
    order = [index_of[row] for row in numbers]
    device = batch.token_ids.device
    kept, sequences, kept_outputs = (
        torch.tensor(indices, dtype=torch.int64, device=device) for indices in (rows, list(first), order)
    )
    narrowed = dataclasses.replace(
        _rows_of_sequences(batch, kept, sequences),
        cu_seqlens_q=torch.tensor([0, *itertools.accumulate(lengths)], device=device, dtype=torch.int32),
        seq_lens=torch.tensor(contexts, device=device, dtype=torch.int32),
        logit_rows=kept_outputs,
        query_lens=tuple(lengths),
        context_lens=tuple(contexts),
    )
    return NarrowedBatch(narrowed, kept, None if order == list(range(len(rows))) else kept_outputs)


def _narrowed_to_last_rows(batch: ForwardBatch, logit_lens: tuple[int, ...]) -> NarrowedBatch:
    """Narrow to the last row of each sequence with logits, by operators that need no copy from or to the host."""
    rows = batch.logit_rows
    sequences = torch.searchsorted(batch.cu_seqlens_q[1:], rows, right=True)
    narrowed = dataclasses.replace(
        _rows_of_sequences(batch, rows, sequences),
        cu_seqlens_q=torch.arange(len(rows) + 1, device=rows.device, dtype=torch.int32),
        seq_lens=batch.seq_lens[sequences],
        logit_rows=torch.arange(len(rows), device=rows.device),
        query_lens=(1,) * len(rows),
        context_lens=tuple(itertools.compress(batch.context_lens, logit_lens)),
    )
    return NarrowedBatch(narrowed, rows, None)


def _rows_of_sequences(batch: ForwardBatch, rows: torch.Tensor, sequences: torch.Tensor) -> ForwardBatch:
    """Return the batch with only these rows and sequences, [n] int64 each, and the lengths as they were."""
    return dataclasses.replace(
        batch,
        token_ids=batch.token_ids[rows],
        positions=batch.positions[rows],
        groups=tuple(_narrowed(group, rows, sequences) for group in batch.groups),
        logit_lens=None,
        adapter_slots=None if batch.adapter_slots is None else batch.adapter_slots[rows],
        token_type_ids=None if batch.token_type_ids is None else batch.token_type_ids[rows],
        layer_inputs=None if batch.layer_inputs is None else batch.layer_inputs[rows],
    )


def _narrowed(group: GroupBatch, rows: torch.Tensor, sequences: torch.Tensor) -> GroupBatch:
    if isinstance(group, StateGroupBatch):
        return group
    return KVGroupBatch(group.slot_mapping[rows], group.block_tables[sequences], group.block_size)


def forward_batch(
    token_ids: Sequence[int],
    lengths: Sequence[int],
    tables: Sequence[torch.Tensor],
    *,
    block_size: int,
    device: torch.device,
    block_sizes: Sequence[int] | None = None,
    starts: Sequence[int] | None = None,
    states: StateGroupBatch | None = None,
    logit_rows: torch.Tensor | None = None,
    adapter_slots: torch.Tensor | None = None,
    token_type_ids: Sequence[int] | None = None,
) -> ForwardBatch:
    """Build the batch of a step. The engine builds its own steps in buffers instead.

    token_ids, token_type_ids: of all sequences, one after the other. lengths: rows of each sequence, none 0. starts:
    position of each sequence's first row, default 0. tables: the block tables [S, M] int32 of each KV group, on the
    CPU; without columns if attention does not use the cache. block_sizes: positions in the blocks of each table, by
    default `block_size`; tables of different sizes must be different tensors. states: addresses of the state group, if
    the decoder has one. logit_rows: by default the last row of each sequence.
    """
    counts = torch.tensor(lengths)
    ends = counts.cumsum(0)
    firsts = torch.zeros_like(counts) if starts is None else torch.tensor(starts)
    sequences = torch.arange(len(counts)).repeat_interleave(counts)  # of the rows
    positions = torch.arange(len(sequences)) - (ends - counts - firsts)[sequences]
    by_table: dict[int, KVGroupBatch] = {}  # groups with the same table share their addresses
    groups = []
    for table, size in zip(tables, block_sizes or [block_size] * len(tables), strict=True):
        if id(table) not in by_table:
            slots = _slots(table, sequences, positions, size)
            by_table[id(table)] = KVGroupBatch(slots.to(device), table.to(device), size)
        groups.append(by_table[id(table)])
    contexts = firsts + counts
    return ForwardBatch(
        token_ids=torch.tensor(token_ids, device=device),
        positions=positions.to(device),
        cu_seqlens_q=torch.cat((torch.zeros(1, dtype=torch.int32), ends.to(torch.int32))).to(device),
        seq_lens=contexts.to(device, torch.int32),
        groups=(*groups, *(() if states is None else (states,))),
        logit_rows=(ends - 1).to(device) if logit_rows is None else logit_rows,
        query_lens=tuple(lengths),
        context_lens=tuple(contexts.tolist()),
        adapter_slots=adapter_slots,
        token_type_ids=None if token_type_ids is None else torch.tensor(token_type_ids, device=device),
    )


def _slots(table: torch.Tensor, sequences: torch.Tensor, positions: torch.Tensor, block_size: int) -> torch.Tensor:
    """Return the KV cache slot that each row is written to: [T] int64."""
    if not table.shape[1]:
        return torch.empty(0, dtype=torch.int64)
    return table[sequences, positions // block_size].long() * block_size + positions % block_size
