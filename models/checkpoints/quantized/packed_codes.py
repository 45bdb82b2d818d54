"""Column groups in arbitrary order: GPTQ's act-order, as a permutation that sorts columns by group."""

import torch

from models.errors import CheckpointError
from models.quant.nibbles import pack_nibbles, unpack_nibbles


def sorting_permutation(group_of: torch.Tensor, group_size: int, name: str) -> torch.Tensor | None:
    """permutation [columns] int64 that brings each group's columns together, in their order; None if they are.

    group_of: [columns], integers, the tensor `name`. Raises CheckpointError unless each group has `group_size` columns.
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
    """Columns of `codes` [rows, columns at `bits`] in the permutation's order."""
    if permutation is None:
        return codes
    if bits == 8:
        return codes[:, permutation]
    return pack_nibbles(unpack_nibbles(codes)[:, permutation])
