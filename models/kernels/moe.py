"""NativeExperts: a router and its experts in one call (C++, cpu/moe.cpp), over the experts' packed weights."""

import ctypes
from collections.abc import Sequence

import torch

from models.kernels.cpu.library import KernelLibrary, required_library
from models.kernels.linear import PackedLinear
from models.kernels.row_input import RowInput
from models.spec import GroupScore, RouterScore, RouterSpec

_MAX_SEGMENTS = 2  # gate and up


class _ExpertLinear(ctypes.Structure):
    """struct hr_expert_linear of moe.cpp."""

    _fields_ = (
        ("segments", ctypes.c_void_p),
        ("block_bytes", ctypes.c_void_p),
        ("permutation", ctypes.c_void_p),
        ("num_segments", ctypes.c_int32),
        ("kernel", ctypes.c_int32),
        ("rounding", ctypes.c_int32),
        ("input_scale", ctypes.c_float),
    )


class _Router(ctypes.Structure):
    """struct hr_router of router.h."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("weight", "bias", "correction", "shared_gate")),
        ("columns", ctypes.c_int64),
        *((name, ctypes.c_int32) for name in ("num_experts", "chosen", "is_sigmoid", "renormalizes")),
        *((name, ctypes.c_int32) for name in ("num_groups", "groups_chosen", "group_best_two")),
        ("scale", ctypes.c_float),
    )


class _MoE(ctypes.Structure):
    """struct hr_moe of moe.cpp."""

    _fields_ = (
        ("router", _Router),
        ("scales_input", ctypes.c_int32),
        ("activation", ctypes.c_int32),
        *((name, ctypes.c_void_p) for name in ("activation_weight", "up", "down")),
        *((name, ctypes.c_int64) for name in ("inner", "inner_columns")),
        ("load", ctypes.c_void_p),
    )


def takes_experts(experts: Sequence[tuple[PackedLinear, PackedLinear]]) -> bool:
    """Whether the kernel does such experts: each layer is one call, of gate and up at most."""
    return all(
        linear.single_run is not None and linear.single_run.segments[1] <= _MAX_SEGMENTS
        for expert in experts
        for linear in expert
    )


class NativeExperts:
    """Bound to the tensors that it is made of, which must stay where they are."""

    def __init__(
        self,
        spec: RouterSpec,
        experts: Sequence[tuple[PackedLinear, PackedLinear]],
        activation: RowInput,
        load: torch.Tensor,
        *,
        weight: torch.Tensor,
        bias: torch.Tensor | None = None,
        correction: torch.Tensor | None = None,
        shared_gate: torch.Tensor | None = None,
        library: KernelLibrary | None = None,
    ) -> None:
        """experts: before and after the activation, as `takes_experts` lets pass. load: [E] int64, to be added to.

        weight [E, K], bias and correction [E], of the router; shared_gate [1, K]: fp32, contiguous.
        """
        self._library = library or required_library()
        self._chosen = spec.experts_per_token
        ups, downs = zip(*experts, strict=True)
        self._up, self._down = ((_ExpertLinear * len(experts))(*map(self._linear, each)) for each in (ups, downs))
        tensors = (weight, bias, correction, shared_gate, activation.weight)
        assert all(tensor is None or (tensor.dtype == torch.float32 and tensor.is_contiguous()) for tensor in tensors)
        self._kept = (experts, tensors, load)
        *router, activation_weight = (None if tensor is None else tensor.data_ptr() for tensor in tensors)
        self._router = _Router(
            *(*router, ups[0].columns, len(experts)),
            *(spec.experts_per_token, spec.score is RouterScore.SIGMOID, spec.renormalizes),
            *(spec.num_groups, spec.groups_per_token, spec.group_score is GroupScore.BEST_TWO, spec.scale),
        )
        self._moe = _MoE(
            *(self._router, spec.scales_input, activation.kind, activation_weight),
            *(ctypes.addressof(self._up), ctypes.addressof(self._down)),
            *(downs[0].columns, ups[0].rows, load.data_ptr()),
        )

    def _linear(self, linear: PackedLinear) -> _ExpertLinear:
        run = linear.single_run
        assert run is not None
        kernels = (self._library.quantized_linear, self._library.bf16_linear, self._library.scaled_linear)
        address, count = run.segments
        scaled = run.call_arguments or (None, 0, 1.0)  # permutation, rounding, scale of the input
        return _ExpertLinear(
            *(address, ctypes.addressof(run.block_bytes), scaled[0]),
            *(count, kernels.index(run.kernel), *scaled[1:]),
        )

    def __call__(self, rows: torch.Tensor, shared: torch.Tensor | None, out: torch.Tensor, *, adds: bool) -> None:
        """out [T, K], contiguous, gets what the experts make of `rows` [T, K] fp32, and `shared` [T, K] fp32 if given,
        times logistic(shared_gate . row) if there is one. adds: to what `out` holds."""
        assert rows.is_contiguous()
        assert out.is_contiguous()
        self._library.moe_rows(
            *(ctypes.addressof(self._moe), rows.data_ptr(), len(rows), None if shared is None else shared.data_ptr()),
            *(out.data_ptr(), out.dtype == torch.bfloat16, adds),
        )

    def route(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Experts [T, chosen] int32 of rows [T, K] fp32, and their weights."""
        experts = torch.empty(len(rows), self._chosen, dtype=torch.int32)
        weights = torch.empty(len(rows), self._chosen)
        self._library.route_rows(
            *(ctypes.addressof(self._router), rows.data_ptr(), len(rows)), experts.data_ptr(), weights.data_ptr()
        )
        return experts, weights
