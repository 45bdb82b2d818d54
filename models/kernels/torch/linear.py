"""LinearOperations: the input of linear layers, and products with dense weights, in torch."""

import torch
import torch.nn.functional as F

from models.kernels.coded_weight import CodedWeight
from models.kernels.operands import LowRankStack
from models.kernels.row_input import Prologue


class LinearOperations:
    """Operations of linear layers in torch; the base class of implementations by kernels.

    has_codes: whether `multiply_codes` and `dequantize_codes` exist. has_adapter_slots: whether `add_low_rank` exists.
    multiplies_fp8: whether torch multiplies rows and weights in fp8, with a scale for each row of both.
    """

    has_codes = False
    has_adapter_slots = False
    multiplies_fp8 = False

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

    def multiply_codes(
        self,
        rows: torch.Tensor,
        weight: CodedWeight,
        out: torch.Tensor,
        bias: torch.Tensor | None,
        residual: torch.Tensor | None,
    ) -> None:
        """Write rows W^T + b + residual to `out`, which may be the residual. [T, out] each; rows may be strided."""
        raise NotImplementedError

    def dequantize_codes(
        self,
        weight: CodedWeight,
        dtype: torch.dtype,
        *,
        ids: torch.Tensor | None = None,
        first: int = 0,
        count: int = 0,
    ) -> torch.Tensor:
        """Return rows `ids` [n] of the weight, or rows first .. first + count - 1, in `dtype`."""
        raise NotImplementedError

    def add_low_rank(
        self,
        rows: torch.Tensor,
        slots: torch.Tensor,
        stack: LowRankStack,
        out: torch.Tensor,
        residual: torch.Tensor | None,
    ) -> None:
        """Apply the adapter of each row's slot to `out` [T, out], in place, without making the host wait.

        rows: [T, in], the layer's input in the stack's dtype. slots: [T] int32, -1 for rows without an adapter.
        residual: [T, out], which is in `out`, and is not scaled by gains; needed only if the stack has vectors.
        """
        raise NotImplementedError
