"""Passes of a step through a recurrent model: sequences whose rows its code computes side by side."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from models.batch import ForwardBatch, KVGroupBatch, StateGroupBatch


@dataclass(frozen=True, slots=True, eq=False)
class Pass:
    """Rows of sequences that have equally many: [S, rows / S], sequence after sequence.

    rows: [T] int64, of the step's. start: position of the first row; 0 for a new sequence. sources: [S] int64, blocks
    of the states before the rows; None for a new sequence, or if it continues the pass before this one. stored: [n]
    int64, the sequences whose states after their rows go to the blocks `targets` [n] int64.
    """

    batch: ForwardBatch
    rows: torch.Tensor
    start: int
    sources: torch.Tensor | None
    continues_pass: bool
    stored: torch.Tensor
    targets: torch.Tensor


@dataclass(frozen=True, slots=True)
class _Span:
    """Rows first .. last - 1 of the step, of one sequence, and the blocks of the states around them, -1 for none.

    The source is None if the span continues the one before it.
    """

    sequence: int
    first: int
    last: int
    position: int  # of the first row
    source: int | None
    target: int


def passes(batch: ForwardBatch, group: StateGroupBatch, *, by_rows: bool) -> Iterator[Pass]:
    """Split a step: sequences that continue with one row are computed side by side, others one after the other.

    A sequence is split where the state after a row is stored. by_rows: also at every row that has a state before it.
    """
    assert group.speculative_rows is None, "drafts are off, since states cannot be restored"
    spans = list(_spans(batch, group, by_rows=by_rows))
    together = [span for span in spans if batch.query_lens[span.sequence] == 1 and span.source != -1]
    if together:
        yield _pass(batch, together)
    for span in spans:
        if span not in together:
            yield _pass(batch, [span])


def _spans(batch: ForwardBatch, group: StateGroupBatch, *, by_rows: bool) -> Iterator[_Span]:
    row = 0
    source: int | None
    for sequence, count in enumerate(batch.query_lens):
        end, source = row + count, group.source_blocks[sequence]
        before = batch.context_lens[sequence] - end  # positions minus rows
        while row < end:
            last = next((index + 1 for index in range(row, end) if group.target_blocks[index] >= 0), end)
            if by_rows and source != -1:
                last = row + 1
            target = group.target_blocks[last - 1]
            yield _Span(sequence, row, last, before + row, source, target)
            row, source = last, None


def _pass(batch: ForwardBatch, spans: list[_Span]) -> Pass:
    device = batch.token_ids.device
    sequences = torch.tensor([span.sequence for span in spans], device=device)
    rows = torch.tensor([row for span in spans for row in range(span.first, span.last)], device=device)
    count = spans[0].last - spans[0].first
    contexts = tuple(span.position + count for span in spans)
    stored = [index for index, span in enumerate(spans) if span.target >= 0]
    sources = [span.source for span in spans if span.source is not None and span.source >= 0]
    own = ForwardBatch(
        token_ids=batch.token_ids[rows],
        positions=batch.positions[rows],
        cu_seqlens_q=torch.arange(len(spans) + 1, dtype=torch.int32, device=device) * count,
        seq_lens=torch.tensor(contexts, dtype=torch.int32, device=device),
        groups=tuple(
            KVGroupBatch(group.slot_mapping[rows], group.block_tables[sequences], group.block_size)
            if isinstance(group, KVGroupBatch)
            else group
            for group in batch.groups
        ),
        logit_rows=batch.logit_rows[:0],
        query_lens=(count,) * len(spans),
        context_lens=contexts,
        adapter_slots=None if batch.adapter_slots is None else batch.adapter_slots[rows],
    )
    return Pass(
        batch=own,
        rows=rows,
        start=spans[0].position,
        sources=torch.tensor(sources, device=device) if sources else None,
        continues_pass=spans[0].source is None,
        stored=torch.tensor(stored, dtype=torch.int64, device=device),
        targets=torch.tensor([spans[index].target for index in stored], dtype=torch.int64, device=device),
    )
