"""A check that the rows of a sequence depend only on that sequence.

Outside of attention, a class of transformers may treat all rows as one sequence: shift or convolve them, count
positions from the first row, share experts' capacity. In a batch of several sequences the result would be silently
wrong.
"""

import torch

from models.attention.base import AttentionBackend
from models.batch import ForwardBatch, KVGroupBatch
from models.errors import UnsupportedModelError, shorten_error
from models.transformers_backend.config import FOREIGN_ERRORS
from models.transformers_backend.decoder import TransformersDecoder

_BLOCK_SIZE = 16
_LENGTH = 12  # of a sequence, which fits into a block
_MAX_DIFFERENCE = 0.2  # relative to a row's norm; rounding in bf16 makes some hundredths, a wrong neighbor about 1


@torch.inference_mode()
def check_independence(decoder: TransformersDecoder, backend: AttentionBackend, vocab_size: int, name: str) -> None:
    """Raise UnsupportedModelError if a sequence's rows change in chunks and together with another sequence."""
    device = next(decoder.parameters()).device
    first, second = torch.randint(vocab_size, (2, _LENGTH), generator=torch.Generator().manual_seed(0)).to(device)
    kv = [
        torch.zeros(backend.kv_shape(spec, 16, _BLOCK_SIZE), dtype=decoder.dtype, device=device)
        for spec in decoder.mixers
    ]
    alone = decoder(_batch(decoder, [(0, 0, first)]), kv)
    try:
        decoder.logits(alone[-1:])
    except FOREIGN_ERRORS as error:
        raise UnsupportedModelError(
            f"transformers' {name} cannot compute logits from hidden states alone: {shorten_error(error)}"
        ) from error
    half = _LENGTH // 2
    _, first_half = decoder(_batch(decoder, [(1, 0, second[:-1]), (0, 0, first[:half])]), kv).split([_LENGTH - 1, half])
    second_half, _ = decoder(_batch(decoder, [(0, half, first[half:]), (1, _LENGTH - 1, second[-1:])]), kv).split(
        [half, 1]
    )
    # Each half is compared separately, since only the second shows positions that were counted from its start. Medians,
    # since rounding may change the choice of experts.
    halves = zip((first_half, second_half), alone.split(half), strict=True)
    difference = max(float(((rows - own).norm(dim=-1) / own.norm(dim=-1)).median()) for rows, own in halves)
    if not difference <= _MAX_DIFFERENCE:  # nor NaN
        raise UnsupportedModelError(
            f"transformers' {name} computes different rows if several sequences are in a batch (they differ by "
            f"{difference:.2f} of their norm), so requests would affect each other"
        )


def _batch(decoder: TransformersDecoder, parts: list[tuple[int, int, torch.Tensor]]) -> ForwardBatch:
    """Return a batch. parts: (sequence, position of the first row, tokens). A sequence's only block has its number."""
    device = parts[0][2].device
    positions = [torch.arange(start, start + len(tokens), device=device) for _, start, tokens in parts]
    slots = [sequence * _BLOCK_SIZE + rows for (sequence, _, _), rows in zip(parts, positions, strict=True)]
    lengths = [len(tokens) for _, _, tokens in parts]
    context_lens = [start + len(tokens) for _, start, tokens in parts]
    tables = torch.tensor([[sequence] for sequence, _, _ in parts], dtype=torch.int32, device=device)
    return ForwardBatch(
        token_ids=torch.cat([tokens for _, _, tokens in parts]),
        positions=torch.cat(positions),
        cu_seqlens_q=torch.tensor([0, *lengths], device=device).cumsum(0).to(torch.int32),
        seq_lens=torch.tensor(context_lens, dtype=torch.int32, device=device),
        groups=(KVGroupBatch(torch.cat(slots), tables),) * len(decoder.layer_groups),
        logit_rows=torch.arange(sum(lengths), device=device),
        query_lens=tuple(lengths),
        context_lens=tuple(context_lens),
        block_size=_BLOCK_SIZE,
    )
