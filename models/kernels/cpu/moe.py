"""NativeExperts: the router and experts of an MoE layer as one native call with packed weights (C++, src/experts)."""

import ctypes
from collections.abc import Sequence

import torch

from models.architecture.feed_forward import GroupScore, RouterScore
from models.kernels.cpu.library import KernelLibrary, address
from models.kernels.cpu.linear import PackedLinear
from models.kernels.cpu.rows import prepare_rows
from models.kernels.operands import ExpertLayer, LatentExperts, SharedExpert
from models.kernels.row_input import Prologue

_MAX_SEGMENTS = 2  # gate and up
_SCORES = {RouterScore.SOFTMAX: 0, RouterScore.SIGMOID: 1, RouterScore.SPARSEMIXER: 2}  # numbers of router.h


class _ExpertLinear(ctypes.Structure):
    """struct hr_expert_linear of moe.cpp."""

    _fields_ = (
        ("segments", ctypes.c_void_p),
        ("row_block_bytes", ctypes.c_void_p),
        ("permutation", ctypes.c_void_p),
        ("num_segments", ctypes.c_int32),
        ("kernel", ctypes.c_int32),
        ("rounding", ctypes.c_int32),
        ("input_scale", ctypes.c_float),
    )


class _Router(ctypes.Structure):
    """struct hr_router of router.h."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("weight", "bias", "correction", "shared_gate", "expert_scale")),
        ("columns", ctypes.c_int64),
        *((name, ctypes.c_int32) for name in ("num_experts", "chosen", "score", "renormalizes")),
        *((name, ctypes.c_int32) for name in ("num_groups", "groups_chosen", "group_best_two")),
        *((name, ctypes.c_float) for name in ("scale", "sum_floor", "jitter")),
    )


class _MoE(ctypes.Structure):
    """struct hr_moe of moe.cpp."""

    _fields_ = (
        ("router", _Router),
        ("scales_input", ctypes.c_int32),
        ("activation", ctypes.c_int32),
        *((name, ctypes.c_void_p) for name in ("activation_weight", "up", "down")),
        *((name, ctypes.c_int64) for name in ("columns", "inner", "inner_columns")),
        ("rows_per_expert", ctypes.c_void_p),
    )


def supports_experts(experts: Sequence[tuple[PackedLinear, PackedLinear]]) -> bool:
    """Whether the kernel supports these experts: each linear layer must be a single call of at most two matrices."""
    return all(
        linear.single_call is not None and linear.single_call.num_segments <= _MAX_SEGMENTS
        for expert in experts
        for linear in expert
    )


class NativeExperts:
    """An MoE layer's router and experts as one native call, bound to its tensors' addresses, which must not change."""

    def __init__(
        self,
        layer: ExpertLayer,
        experts: Sequence[tuple[PackedLinear, PackedLinear]],
        *,
        library: KernelLibrary,
    ) -> None:
        """experts: each expert's packed layers before and after the activation, which `supports_experts` accepts."""
        spec, router, activation = layer.spec, layer.router, layer.experts[0].activation.row_input
        self._library = library
        self._chosen = spec.experts_per_token
        self._router_norm = layer.router_norm
        self._has_shared_gate = router.shared_gate is not None
        ups, downs = zip(*experts, strict=True)
        self._up, self._down = ((_ExpertLinear * len(experts))(*map(self._linear, each)) for each in (ups, downs))
        tensors = (*router, activation.weight)
        assert all(tensor is None or (tensor.dtype == torch.float32 and tensor.is_contiguous()) for tensor in tensors)
        self.rows_per_expert = layer.rows_per_expert
        self._keep_alive = (experts, tensors)
        *addresses, activation_weight = map(address, tensors)
        self._router = _Router(
            *(*addresses, router.weight.shape[1], len(experts)),
            *(spec.experts_per_token, _SCORES[spec.score], spec.renormalizes),
            *(spec.num_groups, spec.groups_per_token, spec.group_score is GroupScore.BEST_TWO),
            *(spec.scale, spec.sum_floor, spec.jitter),
        )
        self._moe = _MoE(
            *(self._router, spec.scales_input, activation.kind, activation_weight),
            *(ctypes.addressof(self._up), ctypes.addressof(self._down)),
            *(ups[0].columns, downs[0].columns, ups[0].rows, layer.rows_per_expert.data_ptr()),
        )

    def _linear(self, linear: PackedLinear) -> _ExpertLinear:
        call = linear.single_call
        assert call is not None
        kernels = (self._library.quantized_linear, self._library.bf16_linear, self._library.scaled_linear)
        permutation, *rounding_and_scale = call.extra_arguments or (None, 0, 1.0)
        return _ExpertLinear(
            *(call.segments_address, call.row_block_bytes_address, permutation),
            *(call.num_segments, kernels.index(call.kernel), *rounding_and_scale),
        )

    def __call__(
        self,
        x: torch.Tensor,
        norm: Prologue,
        residual: torch.Tensor | None,
        shared: SharedExpert | None,
        latent: LatentExperts | None = None,
    ) -> torch.Tensor:
        rows, of_shared = prepare_rows(x, norm.row_input, library=self._library), None
        if self._router_norm is not None:
            assert shared is latent is None
            router_rows = prepare_rows(x, self._router_norm.row_input, library=self._library)
            out = torch.empty(x.shape, dtype=x.dtype) if residual is None else residual
            self.compute(router_rows, None, out, adds=residual is not None, inputs=rows)
            return out
        if shared is not None and not self._has_shared_gate and residual is not None:
            residual = shared(rows, residual)
        elif shared is not None:
            of_shared = shared(rows, None)
        if latent is not None:
            inputs = latent.enter(rows)
            mixed = torch.empty(inputs.shape, dtype=inputs.dtype)
            self.compute(rows, None, mixed, adds=False, inputs=inputs)
            dtype = x.dtype if residual is None else residual.dtype
            return latent.leave(mixed, of_shared if residual is None else residual, dtype)
        out = torch.empty(x.shape, dtype=x.dtype) if residual is None else residual
        self.compute(rows, of_shared, out, adds=residual is not None)
        return out

    def compute(
        self,
        rows: torch.Tensor,
        shared: torch.Tensor | None,
        out: torch.Tensor,
        *,
        adds: bool,
        inputs: torch.Tensor | None = None,
    ) -> None:
        """Write the experts' outputs for `rows` [T, K] fp32 to `out` [T, K], contiguous; with `adds`, add them to it.

        shared: output of the shared expert, [T, K] fp32, added too, times sigmoid(shared_gate . row) if it has a gate.
        inputs: [T, n] fp32, of the experts in place of the rows; `out` has that shape, and there is no `shared`.
        """
        inputs = rows if inputs is None else inputs
        assert rows.is_contiguous()
        assert inputs.is_contiguous()
        assert out.is_contiguous()
        assert out.shape == inputs.shape
        assert shared is None or inputs is rows
        self._library.moe_rows(
            *(ctypes.addressof(self._moe), rows.data_ptr(), inputs.data_ptr(), len(rows), address(shared)),
            *(out.data_ptr(), out.dtype == torch.bfloat16, adds),
        )

    def route(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Choose experts for rows [T, K] fp32. Returns their indices, int32, and weights, fp32: [T, chosen] each."""
        experts = torch.empty(len(rows), self._chosen, dtype=torch.int32)
        weights = torch.empty(len(rows), self._chosen)
        self._library.route_rows(
            *(ctypes.addressof(self._router), rows.data_ptr(), len(rows)), experts.data_ptr(), weights.data_ptr()
        )
        return experts, weights
