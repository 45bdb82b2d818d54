"""pack: sequences side by side as one ForwardBatch, without padding, and the caches of a training step."""

from collections.abc import Sequence

import torch

from models.architecture.attention import AttentionSpec
from models.batch import ForwardBatch, GroupBatch, KVGroupBatch, StateGroupBatch
from models.decoder import Decoder
from models.recurrence.state import LayerCache, empty_state, state_parts
from models.training.attention import SequenceRows


def pack(
    sequences: Sequence[Sequence[int]],
    decoder: Decoder,
    output_rows: torch.Tensor,
    prefixes: Sequence[int | None] | None = None,
) -> ForwardBatch:
    """Whole sequences of token ids, each from position 0. output_rows: [L] int64, of all rows together, which may
    repeat. prefixes: of sequences that go on from another one, as SequenceRows has them; `shares_prefixes` says whether
    they may."""
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
    """Whether sequences can go on from another one: the state of a recurrent layer is of one sequence."""
    return not any(group.is_state for group in decoder.layer_groups)


def training_caches(decoder: Decoder, prefixes: Sequence[int | None] | None = None) -> list[LayerCache]:
    """What layers read and write in a training step: nothing outlives it. prefixes: of each sequence, as in `pack`."""
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
