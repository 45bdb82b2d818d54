"""Batches of training steps: whole sequences in one ForwardBatch, without padding, and their caches."""

from collections.abc import Sequence

import torch

from models.architecture.kv_layout import KVLayout
from models.batch import ForwardBatch, StateGroupBatch, forward_batch
from models.decoder import Decoder
from models.kv.layer import LayerCache, allocate_states
from models.training.attention import SequenceRows

_CPU = torch.device("cpu")


def pack(
    sequences: Sequence[Sequence[int]],
    decoder: Decoder,
    output_rows: torch.Tensor,
    prefixes: Sequence[int | None] | None = None,
) -> ForwardBatch:
    """Return a batch of whole sequences of token ids.

    output_rows: [L] int64, indices of the rows whose outputs are computed, counted over all sequences; a row may
    repeat. prefixes: for each sequence the index of the sequence that is its prefix, or None; only for decoders whose
    `shares_prefixes` is true.
    """
    lengths = [len(ids) for ids in sequences]
    starts = [0 if prefix is None else lengths[prefix] for prefix in prefixes or [None] * len(lengths)]
    groups = decoder.cache_layout.groups
    unused = torch.empty(len(lengths), 0, dtype=torch.int32)
    states = None
    if decoder.cache_layout.has_states:
        states = StateGroupBatch.from_blocks(lengths, [-1] * len(lengths), [-1] * sum(lengths), _CPU)
    return forward_batch(
        [token_id for ids in sequences for token_id in ids],
        lengths,
        [unused for group in groups if not group.is_state],
        block_size=1,
        device=_CPU,
        starts=starts,
        states=states,
        logit_rows=output_rows,
    )


def shares_prefixes(decoder: Decoder) -> bool:
    """Whether sequences can share a prefix in a training step: only without recurrent layers."""
    return not decoder.cache_layout.has_states


def training_caches(decoder: Decoder, prefixes: Sequence[int | None] | None = None) -> list[LayerCache]:
    """Return the layers' caches for a single training step. prefixes: each sequence's prefix, by index."""
    return [
        SequenceRows(layout, {}, prefixes=prefixes, is_shared=mixer in decoder.shared_mixers)
        if isinstance(layout, KVLayout)
        else allocate_states(layout, 1, _CPU)
        for mixer, layout in enumerate(decoder.cache_layout.layers)
    ]
