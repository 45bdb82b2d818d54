"""TrainOperations: the serving operations, or torch's where a gradient is needed."""

from collections.abc import Callable
from typing import Any

import torch

from models.architecture.recurrence import GatedDeltaSpec, GeneralizedDeltaSpec, StateSpaceSpec
from models.kernels.operands import ExpertLayer
from models.kernels.ops import (
    BoundRows,
    Convolve,
    CopyHeads,
    Experts,
    GateRows,
    HeadProduct,
    JoinRows,
    Operations,
    PrepareRows,
    RunGatedDelta,
    RunGeneralizedDelta,
    RunLinearUnit,
    RunSelectiveScan,
    RunStateSpace,
    ShiftRows,
)


class TrainOperations(Operations):
    """Operations of a decoder in training: torch's where a gradient is needed, the fast serving ones elsewhere."""

    name = "training"

    def __init__(self, serving: Operations) -> None:
        super().__init__(serving.packing_refusal, serving.note)
        self.packs_fp32, self.version = serving.packs_fp32, serving.version
        self._serving = serving

    def join_rows(self, columns: int) -> JoinRows:
        return _by_gradient(self._serving.join_rows(columns), super().join_rows(columns))

    def prepare_rows(self, columns: int) -> PrepareRows:
        return _by_gradient(self._serving.prepare_rows(columns), super().prepare_rows(columns))

    def gate_rows(self, columns: int) -> GateRows:
        return _by_gradient(self._serving.gate_rows(columns), super().gate_rows(columns))

    def bound_rows(self, columns: int) -> BoundRows:
        return _by_gradient(self._serving.bound_rows(columns), super().bound_rows(columns))

    def copy_heads(self, columns: int) -> CopyHeads:
        return _by_gradient(self._serving.copy_heads(columns), super().copy_heads(columns))

    def head_product(self, in_features: int, out_features: int) -> HeadProduct:
        serving = self._serving.head_product(in_features, out_features)
        differentiable = super().head_product(in_features, out_features).multiply

        def multiply(weight: torch.Tensor, x: torch.Tensor, out: torch.Tensor) -> None:
            if x.requires_grad:
                differentiable(serving.unpack(weight), x, out)
            else:
                serving.multiply(weight, x, out)

        return HeadProduct(serving.pack, multiply, serving.unpack)

    def experts(self, layer: ExpertLayer) -> Experts:
        return _by_gradient(self._serving.experts(layer), super().experts(layer))

    def convolve(self, kernel_size: int, channels: int) -> Convolve:
        return _by_gradient(self._serving.convolve(kernel_size, channels), super().convolve(kernel_size, channels))

    def gated_delta(self, spec: GatedDeltaSpec) -> RunGatedDelta:
        return _by_gradient(self._serving.gated_delta(spec), super().gated_delta(spec))

    def state_space(self, spec: StateSpaceSpec) -> RunStateSpace:
        return _by_gradient(self._serving.state_space(spec), super().state_space(spec))

    def selective_scan(self, channels: int, state_size: int) -> RunSelectiveScan:
        return _by_gradient(
            self._serving.selective_scan(channels, state_size), super().selective_scan(channels, state_size)
        )

    def linear_unit(self, channels: int) -> RunLinearUnit:
        return _by_gradient(self._serving.linear_unit(channels), super().linear_unit(channels))

    def shift_rows(self, channels: int) -> ShiftRows:
        return _by_gradient(self._serving.shift_rows(channels), super().shift_rows(channels))

    def generalized_delta(self, spec: GeneralizedDeltaSpec) -> RunGeneralizedDelta:
        return _by_gradient(self._serving.generalized_delta(spec), super().generalized_delta(spec))


def _by_gradient(serving: Callable[..., Any], differentiable: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that calls `serving`, or `differentiable` if an argument needs a gradient."""

    def compute(*args: Any, **kwargs: Any) -> Any:
        # Some operations take their rows in a tuple.
        flat = [item for each in args for item in (each if isinstance(each, tuple) else (each,))]
        needs_gradient = any(isinstance(each, torch.Tensor) and each.requires_grad for each in flat)
        return (differentiable if needs_gradient else serving)(*args, **kwargs)

    return compute
