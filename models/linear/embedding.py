"""Embedding tables of tokens and of learned positions."""

import torch

from models.linear.linear import Linear
from models.linear.method import LinearMethod


class Embedding(Linear):
    """A matrix with a row for each id, to look up. A call multiplies by it, as the output layer that is tied to it."""

    def __init__(self, num_rows: int, size: int, *, method: LinearMethod) -> None:
        super().__init__(size, num_rows, has_bias=False, method=method)

    def look_up(self, ids: torch.Tensor) -> torch.Tensor:
        """ids [T] int64, each below num_rows -> [T, size], in the method's dtype, bf16 or fp32."""
        return self.method.look_up(ids, self)
