"""StepPlan -> ForwardBatch: token rows, positions and slots, as plain lists that are copied once.

In Python and not in numpy: the weights that a step reads push everything out of the processor's caches, so that each
operator costs more in being fetched anew than a few hundred numbers do in a loop.
"""

from collections.abc import Sequence

import torch

from engine.runner.batch_buffers import BatchMemory, BatchShape
from engine.runner.state_batch import state_group_batch
from engine.scheduling.kv.groups import KVGroup
from engine.scheduling.plan import PlanItem, StepPlan
from models.batch import ForwardBatch


def build_batch(
    plan: StepPlan, groups: tuple[KVGroup, ...], device: torch.device, memory: BatchMemory | None = None
) -> ForwardBatch:
    """Rows sequence after sequence in the plan's order; see ForwardBatch for shapes. groups: what tables are for.

    memory: where the batch lies, until the next one, if it has few enough rows; else in memory of its own.
    """
    items, block_size = plan.items, groups[0].block_size
    attended = [index for index, group in enumerate(groups) if not group.is_state]
    slots: list[list[int]] = [[] for _ in attended]
    slots_of_groups = list(zip(attended, slots, strict=True))
    token_ids: list[int] = []
    positions: list[int] = []
    logit_rows: list[int] = []
    row_ends, query_lens, context_lens = [0], [], []
    num_rows = 0
    for sequence, num_new, num_draft, needs_logits in items:
        start = sequence.num_computed
        end = start + num_new
        num_rows += num_new
        row_ends.append(num_rows)
        query_lens.append(num_new)
        context_lens.append(end)
        positions += range(start, end)
        token_ids += sequence.tokens[start:end]
        num_accepted = len(sequence.tokens)
        if end > num_accepted:
            token_ids += sequence.draft[max(0, start - num_accepted) : end - num_accepted]
        if needs_logits:  # also those of the draft before the last row
            logit_rows += range(num_rows - 1 - num_draft, num_rows)
        for index, of_group in slots_of_groups:
            table = sequence.tables[index]
            for position in range(start, end):
                of_group.append(table[position // block_size] * block_size + position % block_size)
    width = -(-max(context_lens) // block_size)
    if memory is None or num_rows > memory.max_rows:
        memory = BatchMemory(num_rows, len(items), width, len(attended))
    memory.write_rows(token_ids, positions, logit_rows, *slots)
    memory.write_lengths(row_ends, context_lens)
    for place, index in enumerate(attended):
        memory.write_tables(place, _tables(items, index, width, groups[index]), width)
    tensors = memory.tensors(BatchShape(num_rows, len(items), len(logit_rows), width), device)
    addresses = iter(tensors.groups)
    return ForwardBatch(
        token_ids=tensors.token_ids,
        positions=tensors.positions,
        cu_seqlens_q=tensors.cu_seqlens_q,
        seq_lens=tensors.seq_lens,
        groups=tuple(
            state_group_batch(plan, index, block_size, device) if group.is_state else next(addresses)
            for index, group in enumerate(groups)
        ),
        logit_rows=tensors.logit_rows,
        query_lens=tuple(query_lens),
        context_lens=tuple(context_lens),
        block_size=block_size,
    )


def _tables(items: list[PlanItem], index: int, width: int, group: KVGroup) -> Sequence[list[int]]:
    """Each sequence's blocks of one KV group, in order of position, up to the longest context of this step."""
    tables = [item.sequence.tables[index][:width] for item in items]
    if group.is_full_attention:
        return tables
    return [[block if block > 0 else 0 for block in table] for table in tables]  # NO_BLOCK: what a window has passed
