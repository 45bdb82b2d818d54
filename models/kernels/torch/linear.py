"""LinearOperations: the input of linear layers, and products with dense weights, in torch."""

import torch
import torch.nn.functional as F

from models.kernels.row_input import Prologue


class LinearOperations:
    """Operations of linear layers in torch; the base class of implementations by kernels."""

    def prepare(self, x: torch.Tensor, prologue: Prologue, dtype: torch.dtype) -> torch.Tensor:
        """Return what `prologue` makes of the rows x [T, n], in `dtype`: [T, in]. It may be x."""
        return prologue(x).to(dtype)

    def multiply(
        self,
        rows: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        residual: torch.Tensor | None,
        out_dtype: torch.dtype | None,
    ) -> torch.Tensor:
        """Return rows W^T + b (+ residual, overwritten): [T, out] in `out_dtype`, else the residual's or the rows'.

        rows: [T, in]. weight: [out, in]. bias: [out]. All three have one dtype.
        """
        return self.finish(F.linear(rows, weight, bias), residual, out_dtype)

    def finish(self, y: torch.Tensor, residual: torch.Tensor | None, out_dtype: torch.dtype | None) -> torch.Tensor:
        """Return y (+ residual, overwritten) in `out_dtype`, else in the residual's dtype or y's."""
        if residual is not None:
            y = residual.add_(y)
        return y if out_dtype is None else y.to(out_dtype)
