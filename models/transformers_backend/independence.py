"""A check that the rows of a sequence depend only on that sequence, and on the states that were kept for it.

Outside of attention, a class of transformers may treat all rows as one sequence: shift or convolve them, count
positions from the first row, share experts' capacity. In a batch of several sequences the result would be silently
wrong.
"""

from collections.abc import Sequence

import torch

from models.batch import ForwardBatch, StateGroupBatch, forward_batch
from models.errors import UnsupportedModelError, shorten_error
from models.kv.layer import LayerCache
from models.transformers_backend.config import FOREIGN_ERRORS
from models.transformers_backend.decoder import TransformersDecoder
from models.transformers_backend.states import CONVOLUTION, RECURRENT

_BLOCK_SIZE = 16
_NUM_BLOCKS = 2
_LENGTH = 12  # of a sequence, which fits into a block
_MAX_DIFFERENCE = 0.2  # relative to a row's norm; rounding in bf16 makes some hundredths, a wrong neighbor about 1


@torch.inference_mode()
def check_independence(decoder: TransformersDecoder, vocab_size: int, name: str) -> None:
    """Raise UnsupportedModelError if a sequence's hidden states differ when it is chunked and batched with another."""
    device = next(decoder.parameters()).device
    first, second = torch.randint(vocab_size, (2, _LENGTH), generator=torch.Generator().manual_seed(0)).to(device)
    kv = decoder.cache_layout.allocate_unshared(_NUM_BLOCKS, _BLOCK_SIZE, device, num_states=_NUM_BLOCKS)
    alone = decoder(_batch(decoder, [(0, 0, first)]), kv)
    try:
        decoder.logits(alone[-1:])
    except FOREIGN_ERRORS as error:
        raise UnsupportedModelError(
            f"transformers' {name} cannot compute logits from hidden states alone: {shorten_error(error)}"
        ) from error
    half = _LENGTH // 2
    _check_states(decoder, first, kv, name)
    _, first_half = decoder(_batch(decoder, [(1, 0, second[:-2]), (0, 0, first[:half])]), kv).split([_LENGTH - 2, half])
    middle, _ = decoder(_batch(decoder, [(0, half, first[half:-1]), (1, _LENGTH - 2, second[-2:-1])]), kv).split(
        [half - 1, 1]
    )
    _, last = decoder(_batch(decoder, [(1, _LENGTH - 1, second[-1:]), (0, _LENGTH - 1, first[-1:])]), kv)
    second_half = torch.cat((middle, last[None]))
    # Each half is compared separately, since only the second shows positions that were counted from its start. Medians,
    # since rounding may change the choice of experts.
    halves = zip((first_half, second_half), alone.split(half), strict=True)
    difference = max(float(((rows - own).norm(dim=-1) / own.norm(dim=-1)).median()) for rows, own in halves)
    if not difference <= _MAX_DIFFERENCE:  # nor NaN
        raise UnsupportedModelError(
            f"transformers' {name} computes different rows if several sequences are in a batch (they differ by "
            f"{difference:.2f} of their norm), so requests would affect each other"
        )


def _check_states(decoder: TransformersDecoder, tokens: torch.Tensor, kv: Sequence[LayerCache], name: str) -> None:
    """Make the decoder continue a row at a time if its code reads some states only then.

    Raises UnsupportedModelError if it does not read them even then.
    """
    half = len(tokens) // 2
    for kind in (CONVOLUTION, RECURRENT):
        for last in (None, half + 1):  # several rows, then one
            decoder(_batch(decoder, [(0, 0, tokens[:half])]), kv)
            states = list(decoder.states_of_kind(kind, kv))
            for state in states:
                state.fill_(float("nan"))
            is_read = bool(decoder(_batch(decoder, [(0, half, tokens[half:last])]), kv).isnan().any())
            if is_read or not states:
                continue
            if last is not None:
                raise UnsupportedModelError(f"transformers' {name} keeps {kind} states that it does not read")
            decoder.continues_by_rows = True


def _batch(decoder: TransformersDecoder, parts: list[tuple[int, int, torch.Tensor]]) -> ForwardBatch:
    """Return a batch of `parts`: (sequence, position of the first row, tokens). Sequence n has only block n."""
    table = torch.tensor([[sequence] for sequence, _, _ in parts], dtype=torch.int32)
    device, lengths = parts[0][2].device, [len(tokens) for _, _, tokens in parts]
    states = None
    if decoder.cache_layout.has_states:  # block n also has the state of sequence n
        sources = [sequence if start else -1 for sequence, start, _ in parts]
        targets = [target for sequence, _, tokens in parts for target in (*[-1] * (len(tokens) - 1), sequence)]
        states = StateGroupBatch.from_blocks(lengths, sources, targets, device)
    return forward_batch(
        [token_id for _, _, tokens in parts for token_id in tokens.tolist()],
        lengths,
        (table,) * sum(not group.is_state for group in decoder.cache_layout.groups),
        block_size=_BLOCK_SIZE,
        device=device,
        starts=[start for _, start, _ in parts],
        states=states,
    )
