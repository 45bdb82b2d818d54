"""StepPlan -> ForwardBatch: token rows, positions and slots, computed on the host in numpy and copied once."""

import numpy as np
import torch

from engine.kv.groups import KVGroup
from engine.plan import PlanItem, StepPlan
from engine.runner.state_batch import state_group_batch
from models.batch import ForwardBatch, GroupBatch, KVGroupBatch


def build_batch(plan: StepPlan, groups: tuple[KVGroup, ...], device: torch.device) -> ForwardBatch:
    """Rows sequence after sequence in the plan's order; see ForwardBatch for shapes. groups: what tables are for."""
    items, block_size = plan.items, groups[0].block_size
    starts = np.fromiter((item.sequence.num_computed for item in items), np.int64, len(items))
    query_lens = np.fromiter((item.num_new for item in items), np.int64, len(items))
    context_lens = starts + query_lens
    row_ends = np.cumsum(query_lens)
    row_starts = row_ends - query_lens
    sequence_of_row = np.repeat(np.arange(len(items)), query_lens)  # [T]
    positions = np.arange(int(row_ends[-1])) + (starts - row_starts)[sequence_of_row]  # [T]
    token_ids: list[int] = []
    for item in items:
        token_ids += _tokens_of(item)

    def to_device(array: np.ndarray, dtype: torch.dtype = torch.int64) -> torch.Tensor:
        return torch.from_numpy(array).to(device=device, dtype=dtype)

    def group_batch(group: int) -> GroupBatch:
        if groups[group].is_state:
            return state_group_batch(plan, group, block_size, device)
        tables = _block_tables(items, group, context_lens, block_size)
        slots = tables[sequence_of_row, positions // block_size].astype(np.int64) * block_size + positions % block_size
        return KVGroupBatch(slot_mapping=to_device(slots), block_tables=to_device(tables, torch.int32))

    return ForwardBatch(
        token_ids=torch.tensor(token_ids, dtype=torch.int64, device=device),
        positions=to_device(positions),
        cu_seqlens_q=to_device(np.concatenate(([0], row_ends)), torch.int32),
        seq_lens=to_device(context_lens, torch.int32),
        groups=tuple(group_batch(group) for group in range(len(groups))),
        logit_rows=to_device(_logit_rows(items, row_ends)),
        query_lens=tuple(query_lens.tolist()),
        context_lens=tuple(context_lens.tolist()),
        block_size=block_size,
    )


def _block_tables(items: list[PlanItem], group: int, context_lens: np.ndarray, block_size: int) -> np.ndarray:
    """[S, M] int32 of one KV group, with 0 where there is no block; M covers the longest context of this step."""
    widths = -(-context_lens // block_size)
    tables = np.zeros((len(items), int(widths.max())), np.int32)
    for row, item in enumerate(items):
        width = widths[row]
        tables[row, :width] = item.sequence.tables[group][:width]
    return np.maximum(tables, 0)  # NO_BLOCK: what a window has passed, where nobody looks


def _tokens_of(item: PlanItem) -> list[int]:
    sequence = item.sequence
    start, end = sequence.num_computed, sequence.num_computed + item.num_new
    num_accepted = len(sequence.tokens)
    if end <= num_accepted:
        return sequence.tokens[start:end]
    return sequence.tokens[start:] + sequence.draft[max(0, start - num_accepted) : end - num_accepted]


def _logit_rows(items: list[PlanItem], row_ends: np.ndarray) -> np.ndarray:
    """The last row of every item that needs logits, with the rows of its draft before it."""
    rows: list[int] = []
    for item, end in zip(items, row_ends.tolist(), strict=True):
        if item.needs_logits:
            rows += range(end - 1 - item.num_draft, end)
    return np.asarray(rows, np.int64)
