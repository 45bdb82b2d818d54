"""MLP: a feed-forward layer, gated or plain."""

import statistics

import torch
from torch import nn

from models.architecture.feed_forward import MLPSpec
from models.compute import ComputeConfig
from models.kernels.operands import CodedMatrix, DenseMatrix
from models.kernels.row_input import Prologue
from models.layers.activation import activation_of
from models.layers.norm import Norm
from models.linear.coded import CodedLinearMethod
from models.linear.dense import DenseLinearMethod
from models.linear.linear import Linear
from models.linear.method import LinearMethod


class MLP(nn.Module):
    """Two linear layers; the activation between them is the prologue of the second.

    The first is `gate_up` (both in one GEMM) if the MLP is gated, else `up`; the second is `down`. With `inner_norm`,
    that norm is the prologue of the second, and the activation is computed by itself.
    """

    def __init__(self, spec: MLPSpec, hidden_size: int, *, compute: ComputeConfig, method: LinearMethod) -> None:
        super().__init__()
        # Of intermediate rows: they are wide, so a small dtype saves more than rounding costs.
        self.dtype = compute.dtype
        self.is_gated = spec.is_gated
        self.activation = activation_of(spec)
        size = spec.intermediate_size
        self.inner_norm = None if spec.inner_norm is None else Norm(spec.inner_norm, size)
        self._prepare_rows = compute.ops.prepare_rows(size)
        self._sparse_gates, self._deviations = compute.ops.sparse_gates(), None
        if spec.gate_sparsity > 0.0:
            assert spec.is_gated
            self._deviations = statistics.NormalDist().inv_cdf(spec.gate_sparsity)
        self.down = Linear(size, hidden_size, has_bias=spec.has_down_bias, method=method)
        shards = {"gate": size, "up": size} if spec.is_gated else size
        first = Linear(hidden_size, shards, has_bias=spec.has_up_bias, method=method)
        self.add_module("gate_up" if spec.is_gated else "up", first)
        self.linears = first, self.down  # before and after the activation

    @property
    def packed(self) -> tuple[object | None, object | None]:
        first, second = self.linears
        return first.method.packed, second.method.packed

    @property
    def dense(self) -> tuple[DenseMatrix, DenseMatrix] | None:
        first, second = self.linears
        if not all(isinstance(each.method, DenseLinearMethod) for each in self.linears):
            return None
        return DenseMatrix(first.weight, first.bias), DenseMatrix(second.weight, second.bias)

    @property
    def coded(self) -> tuple[CodedMatrix, CodedMatrix] | None:
        matrices = [
            each.method.matrix(each) if isinstance(each.method, CodedLinearMethod) else None for each in self.linears
        ]
        first, second = matrices
        return None if first is None or second is None else (first, second)

    def expand(self, x: torch.Tensor, norm: Prologue, adapter_slots: torch.Tensor | None = None) -> torch.Tensor:
        """Apply norm and the first linear layer to x [T, hidden]. Returns the intermediate rows for `contract`, [T, n].

        adapter_slots: each row's adapter slot, [T] int32, -1 for no adapter; None if no row has one.
        """
        inner: torch.Tensor = self.linears[0](x, norm, out_dtype=self.dtype, adapter_slots=adapter_slots)
        return inner

    def contract(
        self,
        inner: torch.Tensor,
        residual: torch.Tensor | None = None,
        out_dtype: torch.dtype | None = None,
        adapter_slots: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Apply activation and second linear layer. Returns [T, hidden] in `out_dtype`, by default the residual's.

        residual: added; it may be overwritten. adapter_slots: each row's adapter slot, [T] int32, or None.
        """
        prologue = self.activation
        if self._deviations is not None:
            inner = self._sparse_gates(inner, self._deviations)
        if self.inner_norm is not None:
            inner, prologue = self._prepare_rows(inner, self.activation), self.inner_norm
        hidden: torch.Tensor = self.down(
            inner, prologue, residual=residual, out_dtype=out_dtype, adapter_slots=adapter_slots
        )
        return hidden

    def forward(
        self,
        x: torch.Tensor,
        norm: Prologue,
        residual: torch.Tensor | None = None,
        adapter_slots: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return MLP(norm(x)) (+ residual, overwritten; may be x): [T, hidden]. adapter_slots: [T] int32, or None."""
        return self.contract(self.expand(x, norm, adapter_slots), residual, x.dtype, adapter_slots)
