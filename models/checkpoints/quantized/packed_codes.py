"""Integer codes in QuantTensor's layout: columns sorted by group (GPTQ's act-order), 8-bit codes signed."""

import torch

from models.errors import CheckpointError
from models.quant.nibbles import pack_nibbles, unpack_nibbles


def sorting_permutation(group_of: torch.Tensor, group_size: int, name: str) -> torch.Tensor | None:
    """Return a permutation [columns] int64 that sorts columns by group, or None if they are sorted.

    group_of: the integer tensor `name`, [columns]. Raises CheckpointError unless each group has `group_size` columns.
    """
    num_groups = -(-len(group_of) // group_size)
    if int(group_of.min()) < 0 or int(group_of.max()) >= num_groups:
        raise CheckpointError(
            f"{name!r} names groups {int(group_of.min())} to {int(group_of.max())}; there are {num_groups} of "
            f"{group_size} columns; fetch the checkpoint again"
        )
    counts = torch.bincount(group_of.long(), minlength=num_groups)
    if bool((counts != group_size).any()):
        raise CheckpointError(
            f"{name!r} gives groups of {int(counts.min())} to {int(counts.max())} columns; all must have {group_size}; "
            "fetch the checkpoint again"
        )
    permutation = torch.argsort(group_of, stable=True)
    is_sorted = bool((permutation == torch.arange(len(permutation))).all())
    return None if is_sorted else permutation


def permute_codes(codes: torch.Tensor, permutation: torch.Tensor | None, bits: int) -> torch.Tensor:
    """Return `codes` with columns in the permutation's order. codes: [rows, columns], packed in pairs at 4 bits."""
    if permutation is None:
        return codes
    if bits == 8:
        return codes[:, permutation]
    return pack_nibbles(unpack_nibbles(codes)[:, permutation])


def signed_codes(codes: torch.Tensor, bits: int) -> torch.Tensor:
    """Convert uint8 codes or zero points to QuantTensor's: 8-bit codes minus 128 as int8, 4-bit codes unchanged."""
    return codes if bits == 4 else (codes ^ 0x80).view(torch.int8)
