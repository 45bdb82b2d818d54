"""pack_texts: a ForwardBatch of whole texts, in the first blocks of a PackedKV."""

from collections.abc import Sequence

import torch

from models.batch import ForwardBatch, KVGroupBatch

BLOCK_SIZE = 16  # a text begins a block: so attention reads whole tiles of its keys, but for the last


def num_blocks_of(lengths: Sequence[int]) -> int:
    """Blocks that texts of these lengths, in tokens, take."""
    return sum(-(-length // BLOCK_SIZE) for length in lengths)


def pack_texts(
    token_ids: Sequence[int],
    lengths: Sequence[int],
    *,
    num_groups: int,
    output_rows: torch.Tensor,
    device: torch.device,
    token_type_ids: Sequence[int] | None = None,
) -> ForwardBatch:
    """token_ids, token_type_ids: of all texts, one after the other. lengths: of the texts, none 0. num_groups: of the
    decoder's layers, which all use the same blocks. output_rows: see ForwardBatch.logit_rows."""
    counts = torch.tensor(lengths)
    ends = counts.cumsum(0)
    blocks = (counts + BLOCK_SIZE - 1) // BLOCK_SIZE
    first_blocks = blocks.cumsum(0) - blocks
    positions = torch.arange(len(token_ids)) - (ends - counts).repeat_interleave(counts)
    slots = first_blocks.repeat_interleave(counts) * BLOCK_SIZE + positions
    tables = first_blocks.unsqueeze(1) + torch.arange(int(blocks.max()))
    tables = tables.clamp_(max=int(blocks.sum()) - 1).to(torch.int32)  # nothing is read behind a text's own blocks
    group = KVGroupBatch(slots.to(device), tables.to(device))
    zero = torch.zeros(1, dtype=torch.int32)
    return ForwardBatch(
        token_ids=torch.tensor(token_ids, device=device),
        positions=positions.to(device),
        cu_seqlens_q=torch.cat((zero, ends.to(torch.int32))).to(device),
        seq_lens=counts.to(device, torch.int32),
        groups=(group,) * num_groups,
        logit_rows=output_rows,
        query_lens=tuple(lengths),
        context_lens=tuple(lengths),
        block_size=BLOCK_SIZE,
        token_type_ids=None if token_type_ids is None else torch.tensor(token_type_ids, device=device),
    )
