"""Embedding: the table of tokens, of token types or of learned positions."""

import torch

from models.kernels.torch.linear import LinearOperations
from models.linear.adapters.look_up_bank import LookUpBank, MaskedLookUpBank
from models.linear.linear import Linear
from models.linear.method import LinearMethod


class Embedding(Linear):
    """A matrix with a row for each id. `look_up` reads rows; `forward` multiplies by it, for a tied output layer."""

    def __init__(self, num_rows: int, size: int, *, method: LinearMethod) -> None:
        super().__init__(size, num_rows, has_bias=False, method=method)
        self.look_up_adapters: LookUpBank | None = None

    def enable_look_up_adapters(self, operations: LinearOperations) -> None:
        """Enable adapters in `look_up`. Adapters of the tied output layer are enabled by `enable_adapters`.

        operations: the device's.
        """
        bank = MaskedLookUpBank if operations.has_adapter_slots else LookUpBank
        self.look_up_adapters = bank(self.read_rows(0, 1).device)

    def look_up(self, ids: torch.Tensor, adapter_slots: torch.Tensor | None = None) -> torch.Tensor:
        """Return the embeddings [T, size] of `ids` [T] int64, each below num_rows, in the method's dtype, bf16 or fp32.

        adapter_slots: [T] int32, -1 for rows without an adapter; None if no row has one.
        """
        rows = self.method.look_up(ids, self)
        if adapter_slots is None or self.look_up_adapters is None:
            return rows
        return self.look_up_adapters.adapt(ids, rows, adapter_slots)
