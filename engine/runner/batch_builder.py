"""StepPlan -> ForwardBatch: token rows, positions and slots, as plain lists that are copied once.

In Python and not in numpy: the weights that a step reads push everything out of the processor's caches, so that each
operator costs more in being fetched anew than a few hundred numbers do in a loop.
"""

from array import array
from collections.abc import Sequence
from itertools import accumulate, chain

import torch

from engine.kv.groups import KVGroup
from engine.plan import PlanItem, StepPlan
from engine.runner.state_batch import state_group_batch
from models.batch import ForwardBatch, GroupBatch, KVGroupBatch

_TYPES = {torch.int64: "q", torch.int32: "i"}


def build_batch(plan: StepPlan, groups: tuple[KVGroup, ...], device: torch.device) -> ForwardBatch:
    """Rows sequence after sequence in the plan's order; see ForwardBatch for shapes. groups: what tables are for."""
    items, block_size = plan.items, groups[0].block_size
    query_lens = tuple(item.num_new for item in items)
    context_lens = tuple(item.sequence.num_computed + item.num_new for item in items)
    row_ends = list(accumulate(query_lens))
    width = -(-max(context_lens) // block_size)
    tables = [_tables(items, index, width, group) for index, group in enumerate(groups) if not group.is_state]
    token_ids, positions, logit_rows, *slots = _tensors(
        torch.int64,
        device,
        _token_ids(items),
        _positions(items),
        _logit_rows(items, row_ends),
        *(_slots(items, of_group, block_size) for of_group in tables),
    )
    cu_seqlens_q, seq_lens, *block_tables = _tensors(
        torch.int32, device, [0, *row_ends], context_lens, *(_rows(of_group, width) for of_group in tables)
    )
    addresses = iter(zip(slots, block_tables, strict=True))

    def group_batch(index: int) -> GroupBatch:
        if groups[index].is_state:
            return state_group_batch(plan, index, block_size, device)
        slot_mapping, of_group = next(addresses)
        return KVGroupBatch(slot_mapping, of_group.view(len(items), width))

    return ForwardBatch(
        token_ids=token_ids,
        positions=positions,
        cu_seqlens_q=cu_seqlens_q,
        seq_lens=seq_lens,
        groups=tuple(map(group_batch, range(len(groups)))),
        logit_rows=logit_rows,
        query_lens=query_lens,
        context_lens=context_lens,
        block_size=block_size,
    )


def _tensors(dtype: torch.dtype, device: torch.device, *lists: Sequence[int]) -> Sequence[torch.Tensor]:
    """One for each list, copied to the device together."""
    numbers = array(_TYPES[dtype], list(chain.from_iterable(lists)))
    together = torch.frombuffer(numbers, dtype=dtype)
    if device.type != "cpu":
        together = together.to(device)
    return together.split_with_sizes([len(each) for each in lists])


def _tables(items: list[PlanItem], index: int, width: int, group: KVGroup) -> list[list[int]]:
    """Each sequence's blocks of one KV group, in order of position, up to the longest context of this step."""
    tables = [item.sequence.tables[index][:width] for item in items]
    if group.keeps_all:
        return tables
    return [[block if block > 0 else 0 for block in table] for table in tables]  # NO_BLOCK: what a window has passed


def _rows(tables: list[list[int]], width: int) -> list[int]:
    """[S * width], with 0 behind each table's end."""
    numbers: list[int] = []
    for table in tables:
        numbers += table
        numbers += [0] * (width - len(table))
    return numbers


def _slots(items: list[PlanItem], tables: list[list[int]], block_size: int) -> list[int]:
    slots: list[int] = []
    for item, table in zip(items, tables, strict=True):
        start = item.sequence.num_computed
        slots += [table[p // block_size] * block_size + p % block_size for p in range(start, start + item.num_new)]
    return slots


def _positions(items: list[PlanItem]) -> list[int]:
    positions: list[int] = []
    for item in items:
        start = item.sequence.num_computed
        positions += range(start, start + item.num_new)
    return positions


def _token_ids(items: list[PlanItem]) -> list[int]:
    ids: list[int] = []
    for item in items:
        sequence = item.sequence
        start, end, num_accepted = sequence.num_computed, sequence.num_computed + item.num_new, len(sequence.tokens)
        ids += sequence.tokens[start:end]
        if end > num_accepted:
            ids += sequence.draft[max(0, start - num_accepted) : end - num_accepted]
    return ids


def _logit_rows(items: list[PlanItem], row_ends: list[int]) -> list[int]:
    """The last row of every item that needs logits, with the rows of its draft before it."""
    rows: list[int] = []
    for item, end in zip(items, row_ends, strict=True):
        if item.needs_logits:
            rows += range(end - 1 - item.num_draft, end)
    return rows
