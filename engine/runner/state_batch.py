"""Addresses of recurrent states: where each sequence of a step goes on from, and which rows leave a state where."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

from engine.scheduling.kv.groups import NO_BLOCK
from engine.scheduling.kv.states import state_before
from engine.scheduling.plan import PlanItem, RowResult, StepPlan
from models.batch import StateGroupBatch


@dataclass(frozen=True, slots=True)
class _Run:
    """Rows of one sequence, `num_rows` from its num_computed on. Its state goes on from `source`."""

    item: PlanItem
    num_rows: int
    source: int
    is_open: bool  # some of its rows may be rejected: none leaves a state yet


@dataclass(frozen=True, slots=True)
class Accepted:
    """What a verification left of the open rows of its step: Decoder.commit_states's arguments."""

    kept: torch.Tensor
    group: StateGroupBatch


def state_group_batch(plan: StepPlan, index: int, block_size: int, device: torch.device) -> StateGroupBatch:
    """Of the group `index` of recurrent layers. A draft's sequence leaves no state: see `accepted_states`."""
    runs = [_run(item, item.num_new, index, block_size, is_open=item.num_draft > 0) for item in plan.items]
    return _batch(runs, index, block_size, device)


def accepted_states(
    plan: StepPlan, results: Sequence[RowResult], index: int, block_size: int, device: torch.device
) -> Accepted | None:
    """The states that the accepted rows of the plan's drafts lead to; None if there are no drafts."""
    runs: list[_Run] = []
    kept: list[int] = []
    num_open = 0
    for item, result in zip(plan.items, results, strict=True):
        if not item.num_draft:
            continue
        if result.token_ids:  # none after an error, which ends the sequence
            num_accepted = item.num_new - item.num_draft + len(result.token_ids) - 1
            runs.append(_run(item, num_accepted, index, block_size, is_open=False))
            kept += range(num_open, num_open + num_accepted)
        num_open += item.num_new
    if not runs:
        return None
    return Accepted(torch.tensor(kept, device=device), _batch(runs, index, block_size, device))


def _run(item: PlanItem, num_rows: int, index: int, block_size: int, *, is_open: bool) -> _Run:
    sequence = item.sequence
    # Of the whole step, also where only a part of its rows was accepted: its tables grew for that.
    source = state_before(sequence, sequence.tables[index], sequence.num_computed + item.num_new, block_size)
    return _Run(item, num_rows, source, is_open)


def _batch(runs: Sequence[_Run], index: int, block_size: int, device: torch.device) -> StateGroupBatch:
    query_lens = [run.num_rows for run in runs]
    targets = [target for run in runs for target in _targets(run, index, block_size)]
    speculative_rows = list(_speculative_rows(runs))
    return StateGroupBatch(
        sources=torch.tensor([run.source for run in runs], dtype=torch.int32, device=device),
        targets=torch.tensor(targets, dtype=torch.int32, device=device),
        cu_seqlens=torch.tensor([0, *query_lens], device=device).cumsum(0).to(torch.int32),
        speculative_rows=torch.tensor(speculative_rows, device=device) if speculative_rows else None,
        query_lens=tuple(query_lens),
        source_blocks=tuple(run.source for run in runs),
        target_blocks=tuple(targets),
    )


def _targets(run: _Run, index: int, block_size: int) -> list[int]:
    """The block for the state after each row: at the end, and at the end of each full block that has a place."""
    targets = [NO_BLOCK] * run.num_rows
    if run.is_open:
        return targets
    table, start = run.item.sequence.tables[index], run.item.sequence.num_computed
    end = start + run.num_rows
    for num_tokens in (*range((start // block_size + 1) * block_size, end, block_size), end):
        targets[num_tokens - start - 1] = table[(num_tokens - 1) // block_size]
    return targets


def _speculative_rows(runs: Iterable[_Run]) -> Iterable[int]:
    end = 0
    for run in runs:
        start, end = end, end + run.num_rows
        if run.is_open:
            yield from range(start, end)
