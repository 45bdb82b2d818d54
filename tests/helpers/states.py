"""Rows of several sequences that continue from states, for tests of recurrences."""

import torch

from models.batch import StateGroupBatch

BLOCKS = 12


def group_of(query_lens: list[int], sources: list[int], targets: dict[int, int]) -> StateGroupBatch:
    """targets: row -> block."""
    blocks = tuple(targets.get(row, -1) for row in range(sum(query_lens)))
    return StateGroupBatch(
        sources=torch.tensor(sources, dtype=torch.int32),
        targets=torch.tensor(blocks, dtype=torch.int32),
        cu_seqlens=torch.tensor([0, *query_lens]).cumsum(0).to(torch.int32),
        speculative_rows=None,
        query_lens=tuple(query_lens),
        source_blocks=tuple(sources),
        target_blocks=blocks,
    )


# (rows of each sequence, the state it continues from, row -> the block that takes the state after it)
STEPS = [
    ([1], [-1], {0: 3}),
    ([1, 1, 1], [4, -1, 2], {0: 5, 1: 6, 2: 2}),
    ([150], [7], {15: 1, 79: 2, 80: 3, 149: 7}),
    ([64, 1, 70, 2], [-1, 0, 5, 5], {63: 8, 64: 0, 134: 9, 136: 10}),
    ([3, 1], [1, 2], {}),
]
