"""Embedding tables of tokens and of learned positions."""

import torch

from models.linear.linear import Linear
from models.linear.scheme import QuantScheme


class Embedding(Linear):
    """A matrix with a row for each id, to be looked up. Called, it multiplies: the output layer that is tied to it."""

    def __init__(self, num_rows: int, size: int, *, scheme: QuantScheme) -> None:
        super().__init__(size, num_rows, has_bias=False, scheme=scheme)

    def look_up(self, ids: torch.Tensor) -> torch.Tensor:
        """ids [T] int64, each below num_rows -> [T, size], in bf16 or fp32 as the scheme has it."""
        return self.scheme.look_up(ids, self)
