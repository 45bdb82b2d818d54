"""Batches that run a decoder over chunks of text from their beginning, in one step or in several."""

from collections.abc import Sequence

import torch

from models.batch import ForwardBatch, StateGroupBatch, forward_batch
from models.kv.groups import LayerGroup

BLOCK_SIZE = 16
_SMALL_STEP_ROWS = 4
_SMALL_STEPS_SHARE = 4  # the last 1/4 of a chunk is computed in small steps


def step_batches(tokens: Sequence[int], groups: Sequence[LayerGroup], device: torch.device) -> list[ForwardBatch]:
    """Return the batches that compute one chunk: most of its tokens in one step, the last quarter in steps of a few.

    So quality is measured in both large and small steps, for which kernels differ. KV blocks are numbered from 0, the
    same in all groups: layers must not share memory. The chunk uses recurrent state 0.
    """
    batches = []
    start = 0
    for num_rows in step_lengths(len(tokens)):
        rows = tokens[start : start + num_rows]
        batches.append(_batch([rows], [start], _table([len(tokens)]), groups, device))
        start += num_rows
    return batches


def joint_batch(chunks: Sequence[Sequence[int]], groups: Sequence[LayerGroup], device: torch.device) -> ForwardBatch:
    """Return a batch that computes several chunks completely in one step; chunk n uses recurrent state n. KV blocks
    are numbered as in `step_batches`."""
    return _batch(chunks, [0] * len(chunks), _table([len(chunk) for chunk in chunks]), groups, device)


def step_lengths(num_tokens: int) -> list[int]:
    """Return the number of rows of each step of a chunk: one large step, then small ones."""
    num_small = num_tokens // _SMALL_STEPS_SHARE // _SMALL_STEP_ROWS
    large = num_tokens - num_small * _SMALL_STEP_ROWS
    return [large, *[_SMALL_STEP_ROWS] * num_small]


def _table(lengths: Sequence[int]) -> torch.Tensor:
    """Return the block table of all KV groups, [chunks, M] int32. Blocks are numbered from 0, chunk after chunk."""
    widths = [-(-length // BLOCK_SIZE) for length in lengths]
    table = torch.zeros(len(lengths), max(widths), dtype=torch.int32)
    first = 0
    for chunk, width in enumerate(widths):
        table[chunk, :width] = torch.arange(first, first + width)
        first += width
    return table


def _batch(
    chunks: Sequence[Sequence[int]],
    starts: Sequence[int],
    table: torch.Tensor,
    groups: Sequence[LayerGroup],
    device: torch.device,
) -> ForwardBatch:
    """Return a batch in which chunk n starts at position starts[n] and uses recurrent state n."""
    lengths = [len(chunk) for chunk in chunks]
    states = None
    if any(group.is_state for group in groups):
        sources = [state if start else -1 for state, start in enumerate(starts)]
        targets = [target for state, length in enumerate(lengths) for target in [*[-1] * (length - 1), state]]
        states = StateGroupBatch.from_blocks(lengths, sources, targets, device)
    token_ids = [token_id for chunk in chunks for token_id in chunk]
    tables = [table for group in groups if not group.is_state]
    return forward_batch(token_ids, lengths, tables, block_size=BLOCK_SIZE, device=device, starts=starts, states=states)
