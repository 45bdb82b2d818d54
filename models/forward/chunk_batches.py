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

    So quality is measured in both large and small steps, for which kernels differ. KV blocks are numbered
    from 0, group after group; the chunk uses recurrent state 0.
    """
    batches = []
    start = 0
    for num_rows in step_lengths(len(tokens)):
        rows = tokens[start : start + num_rows]
        batches.append(_batch([rows], [start], _tables([len(tokens)], groups), groups, device))
        start += num_rows
    return batches


def joint_batch(chunks: Sequence[Sequence[int]], groups: Sequence[LayerGroup], device: torch.device) -> ForwardBatch:
    """Return a batch that computes several chunks completely in one step; chunk n uses recurrent state n."""
    return _batch(chunks, [0] * len(chunks), _tables([len(chunk) for chunk in chunks], groups), groups, device)


def step_lengths(num_tokens: int) -> list[int]:
    """Return the number of rows of each step of a chunk: one large step, then small ones."""
    num_small = num_tokens // _SMALL_STEPS_SHARE // _SMALL_STEP_ROWS
    large = num_tokens - num_small * _SMALL_STEP_ROWS
    return [large, *[_SMALL_STEP_ROWS] * num_small]


def _tables(lengths: Sequence[int], groups: Sequence[LayerGroup]) -> list[torch.Tensor]:
    """Return each KV group's block table, [chunks, M] int32. Blocks are numbered from 0, by chunk and then by group."""
    num_groups = sum(not group.is_state for group in groups)
    widths = [-(-length // BLOCK_SIZE) for length in lengths]
    tables = torch.zeros(num_groups, len(lengths), max(widths), dtype=torch.int32)
    first = 0
    for chunk, width in enumerate(widths):
        for group in range(num_groups):
            tables[group, chunk, :width] = torch.arange(first, first + width)
            first += width
    return list(tables)


def _batch(
    chunks: Sequence[Sequence[int]],
    starts: Sequence[int],
    tables: Sequence[torch.Tensor],
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
    return forward_batch(token_ids, lengths, tables, block_size=BLOCK_SIZE, device=device, starts=starts, states=states)
