"""StepPlan -> ForwardBatch: token rows, positions and slots, as plain lists that are copied once.

Python lists are faster here than numpy: a step streams the weights through the processor's caches, so fetching the code
of each numpy operator again costs more than a loop over a few hundred numbers.
"""

from typing import NamedTuple

import torch

from engine.runner.batch_buffers import BatchBuffers, BatchShape, BatchTensors
from engine.runner.block_tables import BlockTables
from engine.runner.state_batch import state_group_batch, state_spans
from engine.scheduling.kv.groups import KVGroup
from engine.scheduling.plan import PlanItem, StepPlan
from models.batch import ForwardBatch


def build_batch(
    plan: StepPlan,
    groups: tuple[KVGroup, ...],
    device: torch.device,
    buffers: BatchBuffers | None = None,
    *,
    has_adapters: bool = True,
) -> ForwardBatch:
    """Build the batch of a plan, with rows in the order of the plan's items. groups: the KV group of each block table.

    Tokens that the host does not know (`plan.token_rows`) are 0. buffers: reused for the batch, which is then valid
    until the next one is built; a batch with too many rows gets new buffers. has_adapters: False for a draft model, to
    which the sequences' adapter slots do not apply.
    """
    rows = _single_rows(plan, groups) if _has_single_rows(plan) else _rows(plan.items, groups)
    if has_adapters and any(item.sequence.adapter_slot >= 0 for item in plan.items):
        slots = [item.sequence.adapter_slot for item in plan.items for _ in range(item.num_new)]
        rows = rows._replace(adapter_slots=slots)
    tensors = _write(rows, plan.items, groups, device, buffers)
    kv_groups = iter(tensors.groups)
    return ForwardBatch(
        token_ids=tensors.token_ids,
        positions=tensors.positions,
        cu_seqlens_q=tensors.cu_seqlens_q,
        seq_lens=tensors.seq_lens,
        groups=tuple(
            state_group_batch(state_spans(plan, index, group.block_size), group.block_size, device)
            if group.is_state
            else next(kv_groups)
            for index, group in enumerate(groups)
        ),
        logit_rows=tensors.logit_rows,
        logit_lens=tuple([num_draft + 1 if needs else 0 for _, _, _, num_draft, needs in plan.items]),
        query_lens=tuple(rows.query_lens),
        context_lens=tuple(rows.context_lens),
        adapter_slots=None if rows.adapter_slots is None else tensors.adapter_slots,
    )


class _Rows(NamedTuple):
    """A batch's inputs as lists; see ForwardBatch. slots: KV slots of the rows, for each group with keys and values."""

    token_ids: list[int]
    positions: list[int]
    slots: list[list[int]]
    logit_rows: list[int]
    row_ends: list[int]
    query_lens: list[int]
    context_lens: list[int]
    adapter_slots: list[int] | None = None


def _has_single_rows(plan: StepPlan) -> bool:
    """Whether each item has one row, of its sequence's last token, and a row of logits, as in most steps."""
    return plan.token_rows is not None or all(
        needs_logits and num_new == 1 and start < len(sequence.tokens)
        for sequence, start, num_new, _, needs_logits in plan.items
    )


def _single_rows(plan: StepPlan, groups: tuple[KVGroup, ...]) -> _Rows:
    """Return what `_rows` does if each item has a single row, in less time."""
    items, is_ahead = plan.items, plan.token_rows is not None
    positions = [item.start for item in items]
    tables = [item.sequence.tables for item in items]
    slots = [
        [
            of_groups[index][position // size] * size + position % size
            for of_groups, position in zip(tables, positions, strict=True)
        ]
        for index, size in [(index, group.block_size) for index, group in enumerate(groups) if not group.is_state]
    ]
    return _Rows(
        token_ids=[0] * len(items) if is_ahead else [item.sequence.tokens[item.start] for item in items],
        positions=positions,
        slots=slots,
        logit_rows=list(range(len(items))),
        row_ends=list(range(len(items) + 1)),
        query_lens=[1] * len(items),
        context_lens=[position + 1 for position in positions],
    )


def _rows(items: list[PlanItem], groups: tuple[KVGroup, ...]) -> _Rows:
    kv_groups = [(index, group.block_size) for index, group in enumerate(groups) if not group.is_state]
    slots: list[list[int]] = [[] for _ in kv_groups]
    slots_of_groups = [(index, size, of_group) for (index, size), of_group in zip(kv_groups, slots, strict=True)]
    token_ids: list[int] = []
    positions: list[int] = []
    logit_rows: list[int] = []
    row_ends, query_lens, context_lens = [0], [], []
    num_rows = 0
    for sequence, start, num_new, num_draft, needs_logits in items:
        end = start + num_new
        num_rows += num_new
        row_ends.append(num_rows)
        query_lens.append(num_new)
        context_lens.append(end)
        positions += range(start, end)
        token_ids += sequence.tokens[start:end]
        num_known = len(sequence.tokens)
        if end > num_known:
            token_ids += sequence.draft[max(0, start - num_known) : end - num_known]
        if needs_logits:  # for each token of the draft too
            logit_rows += range(num_rows - 1 - num_draft, num_rows)
        for index, block_size, of_group in slots_of_groups:
            table = sequence.tables[index]
            for position in range(start, end):
                of_group.append(table[position // block_size] * block_size + position % block_size)
    return _Rows(token_ids, positions, slots, logit_rows, row_ends, query_lens, context_lens)


def _write(
    rows: _Rows,
    items: list[PlanItem],
    groups: tuple[KVGroup, ...],
    device: torch.device,
    buffers: BatchBuffers | None,
) -> BatchTensors:
    """Copy the lists into `buffers`, or into new buffers if these are too small, and return them as tensors. Larger
    steps use the tables of `buffers`, too."""
    num_rows = len(rows.token_ids)
    width = -(-max(rows.context_lens) // min(group.block_size for group in groups))
    if buffers is None or num_rows > buffers.max_rows:
        if buffers is None or len(items) > buffers.tables.max_sequences:
            tables = BlockTables([group for group in groups if not group.is_state], len(items), width)
            buffers = BatchBuffers(num_rows, tables)
        else:
            buffers = buffers.of_rows(num_rows)
    buffers.write_rows(rows.token_ids, rows.positions, rows.logit_rows, *rows.slots)
    buffers.write_lengths(rows.row_ends, rows.context_lens)
    if rows.adapter_slots is not None:
        buffers.write_adapter_slots(rows.adapter_slots)
    _write_tables(items, groups, buffers.tables)
    return buffers.tensors(BatchShape(num_rows, len(items), len(rows.logit_rows), width), device)


def _write_tables(items: list[PlanItem], groups: tuple[KVGroup, ...], to: BlockTables) -> None:
    kv_groups = [index for index, group in enumerate(groups) if not group.is_state]
    for place, (sequence, start, num_new, _, _) in enumerate(items):
        # A draft model also computes drafted tokens, whose blocks the target may drop.
        num_computed = min(start, len(sequence.tokens) - 1)
        for number, index in enumerate(kv_groups):
            to.write(number, place, sequence.tables[index], num_computed, start + num_new)
