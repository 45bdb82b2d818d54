"""Addresses of recurrent states: where each sequence of a step continues from, and where rows write a state."""

from collections import abc
from dataclasses import dataclass

import torch

from engine.scheduling.kv.groups import NO_BLOCK
from engine.scheduling.kv.states import source_state
from engine.scheduling.plan import PlanItem, RowResult, StepPlan
from models.batch import StateGroupBatch


@dataclass(frozen=True, slots=True)
class _Span:
    """Rows of one sequence, `num_rows` from its num_computed on. Its state continues from that in block `source`."""

    item: PlanItem
    num_rows: int
    source: int
    is_speculative: bool  # some of its rows may be rejected: none writes a state yet


@dataclass(frozen=True, slots=True)
class AcceptedStates:
    """Which states to write after a verification. rows: [n] int64, the accepted ones of its step's speculative rows."""

    rows: torch.Tensor
    group: StateGroupBatch


def state_group_batch(plan: StepPlan, index: int, block_size: int, device: torch.device) -> StateGroupBatch:
    """Of the group `index` of recurrent layers. A sequence with a draft writes no state yet: see `accepted_states`."""
    spans = [_span(item, item.num_new, index, block_size, is_speculative=item.num_draft > 0) for item in plan.items]
    return _batch(spans, index, block_size, device)


def accepted_states(
    plan: StepPlan, results: abc.Sequence[RowResult], index: int, block_size: int, device: torch.device
) -> AcceptedStates | None:
    """The states that the accepted rows of the plan's drafts lead to; None if there are no drafts."""
    spans: list[_Span] = []
    accepted_rows: list[int] = []
    num_speculative = 0
    for item, result in zip(plan.items, results, strict=True):
        if not item.num_draft:
            continue
        if result.token_ids:  # none after an error, which ends the sequence
            num_accepted = item.num_new - item.num_draft + len(result.token_ids) - 1
            spans.append(_span(item, num_accepted, index, block_size, is_speculative=False))
            accepted_rows += range(num_speculative, num_speculative + num_accepted)
        num_speculative += item.num_new
    if not spans:
        return None
    return AcceptedStates(torch.tensor(accepted_rows, device=device), _batch(spans, index, block_size, device))


def _span(item: PlanItem, num_rows: int, index: int, block_size: int, *, is_speculative: bool) -> _Span:
    sequence = item.sequence
    # Of the whole step, also if only a part of its rows was accepted: the tables were extended for all of them.
    source = source_state(sequence, sequence.tables[index], sequence.num_computed + item.num_new, block_size)
    return _Span(item, num_rows, source, is_speculative)


def _batch(spans: abc.Sequence[_Span], index: int, block_size: int, device: torch.device) -> StateGroupBatch:
    query_lens = [span.num_rows for span in spans]
    targets = [target for span in spans for target in _targets(span, index, block_size)]
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


def _targets(span: _Span, index: int, block_size: int) -> list[int]:
    """The block for the state after each row: the last one, and the last of each full block whose entry has a block."""
    targets = [NO_BLOCK] * span.num_rows
    if span.is_speculative:
        return targets
    table, start = span.item.sequence.tables[index], span.item.sequence.num_computed
    end = start + span.num_rows
    for num_tokens in (*range((start // block_size + 1) * block_size, end, block_size), end):
        targets[num_tokens - start - 1] = table[(num_tokens - 1) // block_size]
    return targets


def _speculative_rows(spans: abc.Iterable[_Span]) -> abc.Iterable[int]:
    end = 0
    for span in spans:
        start, end = end, end + span.num_rows
        if span.is_speculative:
            yield from range(start, end)
