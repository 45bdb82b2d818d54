"""Mixtures of each row with the row before it, over the rows of several sequences that continue from a state."""

import torch

from models.batch import StateGroupBatch
from models.kernels.torch.causal_conv import prepend_states, store_inputs


def shift_rows(
    x: torch.Tensor, weight: torch.Tensor, state: torch.Tensor, group: StateGroupBatch, *, out_dtype: torch.dtype
) -> torch.Tensor:
    """Mix each row with the one before it, by each row of `weight`; ShiftRows in ops.py has the details."""
    extended, ends = prepend_states(x, state, group)
    before = extended[ends - 1]
    store_inputs(extended, ends, state, group)
    return torch.addcmul(x, before - x, weight.unsqueeze(1)).to(out_dtype)
