"""Recurrent states of a step: the blocks that each sequence's state is read from and written to."""

from collections import abc
from typing import NamedTuple

import torch

from engine.scheduling.kv.groups import NO_BLOCK
from engine.scheduling.kv.states import source_state
from engine.scheduling.plan import RowResult, StepPlan
from models.batch import StateGroupBatch


class StateSpan(NamedTuple):
    """The rows of one sequence in a step, for one group of recurrent layers.

    source: block of the state before the first row. blocks: entries of the sequence's table that the rows cover.
    num_draft: number of draft rows at the end. If there are any, no state is written until they are verified.
    """

    start: int  # position of the first row
    num_rows: int
    source: int
    blocks: list[int]
    num_draft: int


def state_spans(plan: StepPlan, index: int, block_size: int) -> list[StateSpan]:
    """Return one span for each item of the plan, for the state group `index`."""
    spans = []
    for item in plan.items:
        table = item.sequence.tables[index]
        blocks = table[item.start // block_size : (item.end - 1) // block_size + 1]
        source = source_state(table, item.start, item.num_certain, block_size)
        spans.append(StateSpan(item.start, item.num_new, source, blocks, item.num_draft))
    return spans


def state_group_batch(spans: abc.Sequence[StateSpan], block_size: int, device: torch.device) -> StateGroupBatch:
    """Return the source and target blocks of a step's states. Drafts write no state before they are verified."""
    query_lens = [span.num_rows for span in spans]
    targets = [target for span in spans for target in _targets(span, block_size)]
    speculative_rows = list(_speculative_rows(spans))
    return StateGroupBatch(
        sources=torch.tensor([span.source for span in spans], dtype=torch.int32, device=device),
        targets=torch.tensor(targets, dtype=torch.int32, device=device),
        cu_seqlens=torch.tensor([0, *query_lens], device=device).cumsum(0).to(torch.int32),
        speculative_rows=torch.tensor(speculative_rows, device=device) if speculative_rows else None,
        query_lens=tuple(query_lens),
        source_blocks=tuple(span.source for span in spans),
        target_blocks=tuple(targets),
    )


def accepted_states(
    spans: abc.Sequence[StateSpan], results: abc.Sequence[RowResult], block_size: int, device: torch.device
) -> tuple[torch.Tensor, StateGroupBatch] | None:
    """Return the accepted rows among the step's speculative rows, [n] int64, and the states to write after them; None
    if there are none.

    spans, results: one for each item of the step.
    """
    accepted: list[StateSpan] = []
    accepted_rows: list[int] = []
    num_speculative = 0
    for span, result in zip(spans, results, strict=True):
        if not span.num_draft:
            continue
        if result.token_ids:  # none after an error, which ends the sequence
            num_accepted = span.num_rows - span.num_draft + len(result.token_ids) - 1
            accepted.append(span._replace(num_rows=num_accepted, num_draft=0))
            accepted_rows += range(num_speculative, num_speculative + num_accepted)
        num_speculative += span.num_rows
    if not accepted:
        return None
    return torch.tensor(accepted_rows, device=device), state_group_batch(accepted, block_size, device)


def _targets(span: StateSpan, block_size: int) -> list[int]:
    """Return, for each row, the block for the state after it, or NO_BLOCK. States are written after the last row, and
    at each block boundary for which the table has a block."""
    targets = [NO_BLOCK] * span.num_rows
    if span.num_draft:
        return targets
    first, end = span.start // block_size, span.start + span.num_rows
    for num_tokens in (*range((first + 1) * block_size, end, block_size), end):
        targets[num_tokens - span.start - 1] = span.blocks[(num_tokens - 1) // block_size - first]
    return targets


def _speculative_rows(spans: abc.Iterable[StateSpan]) -> abc.Iterable[int]:
    end = 0
    for span in spans:
        start, end = end, end + span.num_rows
        if span.num_draft:
            yield from range(start, end)
