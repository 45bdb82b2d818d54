"""Batches of a training step: sequences side by side in one ForwardBatch, without padding, and their caches."""

from collections.abc import Sequence

import torch

from models.architecture.attention import AttentionSpec
from models.batch import ForwardBatch, GroupBatch, KVGroupBatch, StateGroupBatch
from models.decoder import Decoder
from models.kv.layer import LayerCache, empty_state, state_parts
from models.training.attention import SequenceRows


def pack(
    sequences: Sequence[Sequence[int]],
    decoder: Decoder,
    output_rows: torch.Tensor,
    prefixes: Sequence[int | None] | None = None,
) -> ForwardBatch:
    """Return a batch of whole sequences of token ids.

    output_rows: [L] int64, indices of all rows together, which may repeat. prefixes: as in SequenceRows; only if
    `shares_prefixes`.
    """
    lengths = [len(ids) for ids in sequences]
    firsts = [0 if prefix is None else lengths[prefix] for prefix in prefixes or [None] * len(lengths)]
    contexts = [first + length for first, length in zip(firsts, lengths, strict=True)]
    starts = torch.tensor([0, *lengths]).cumsum(0).to(torch.int32)
    return ForwardBatch(
        token_ids=torch.tensor([token_id for ids in sequences for token_id in ids]),
        positions=torch.cat([torch.arange(*ends) for ends in zip(firsts, contexts, strict=True)]),
        cu_seqlens_q=starts,
        seq_lens=torch.tensor(contexts, dtype=torch.int32),
        groups=tuple(_group(group.is_state, starts, lengths) for group in decoder.layer_groups),
        logit_rows=output_rows,
        query_lens=tuple(lengths),
        context_lens=tuple(contexts),
        block_size=1,
    )


def shares_prefixes(decoder: Decoder) -> bool:
    """Whether sequences can continue another one: the state of a recurrent layer belongs to one sequence."""
    return not any(group.is_state for group in decoder.layer_groups)


def training_caches(decoder: Decoder, prefixes: Sequence[int | None] | None = None) -> list[LayerCache]:
    """Return the layers' caches for a training step, which do not outlive it. prefixes: as in `pack`."""
    return [
        SequenceRows.cache(decoder.dtype, prefixes)
        if isinstance(mixer, AttentionSpec)
        else empty_state(state_parts(mixer, decoder.dtype), 1, torch.device("cpu"))
        for mixer in decoder.mixers
    ]


def _group(is_state: bool, starts: torch.Tensor, lengths: list[int]) -> GroupBatch:
    num_rows, num_sequences = sum(lengths), len(lengths)
    if not is_state:
        return KVGroupBatch(torch.empty(0, dtype=torch.int64), torch.empty(num_sequences, 0, dtype=torch.int32))
    return StateGroupBatch(
        sources=torch.full((num_sequences,), -1, dtype=torch.int32),
        targets=torch.full((num_rows,), -1, dtype=torch.int32),
        cu_seqlens=starts,
        speculative_rows=None,
        query_lens=tuple(lengths),
        source_blocks=(-1,) * num_sequences,
        target_blocks=(-1,) * num_rows,
    )
