"""Convolution, gated delta rule and state spaces of recurrent layers (C++, src/recurrence)."""

import torch

from models.architecture.recurrence import GatedDeltaSpec, GatePlace, GeneralizedDeltaSpec, StateSpaceSpec
from models.batch import StateGroupBatch
from models.kernels.cpu.library import KernelLibrary, address
from models.kernels.operands import (
    DeltaGates,
    DeltaWeights,
    GeneralizedDeltaRows,
    GeneralizedDeltaWeights,
    ScanInputs,
    ScanWeights,
    StateSpaceWeights,
    UnitInputs,
    UnitWeights,
)
from models.kernels.torch.linear_unit import DECAY_SCALE

MAX_KERNEL_SIZE = 8  # kMaxKernelSize of causal_conv.cpp


def convolve(
    rows: torch.Tensor,
    weight: torch.Tensor,
    state: torch.Tensor,
    group: StateGroupBatch,
    *,
    bias: torch.Tensor | None = None,
    gates: tuple[torch.Tensor, torch.Tensor] | None = None,
    has_silu: bool = False,
    out_dtype: torch.dtype,
    library: KernelLibrary,
) -> torch.Tensor:
    """Run a causal depthwise convolution (Convolve in ops.py). At most 8 taps, and a multiple of 16 channels."""
    before, after = gates or (None, None)
    for gate in (before, after):
        assert gate is None or (gate.stride() == rows.stride() and gate.dtype == rows.dtype)
    assert state.dtype == rows.dtype
    assert rows.stride(1) == 1
    out = torch.empty((len(rows), weight.shape[1]), dtype=out_dtype)
    library.causal_conv(
        *(rows.dtype == torch.bfloat16, rows.data_ptr(), address(before), address(after), rows.stride(0)),
        *(weight.data_ptr(), address(bias), has_silu, state.data_ptr(), *_group_arguments(group)),
        *(out_dtype == torch.bfloat16, out.data_ptr(), weight.shape[1], len(weight)),
    )
    return out


def run_gated_delta(
    qkv: torch.Tensor,
    gates: DeltaGates,
    weights: DeltaWeights,
    state: torch.Tensor,
    group: StateGroupBatch,
    *,
    spec: GatedDeltaSpec,
    library: KernelLibrary,
) -> torch.Tensor:
    """Run the gated delta rule, norm and gate (RunGatedDelta in ops.py). Head sizes are multiples of 16."""
    z, b, a = gates
    assert z.stride(1) == b.stride(1) == a.stride(1) == 1
    assert z.dtype == b.dtype == a.dtype
    assert qkv.is_contiguous()
    assert qkv.dtype == state.dtype == torch.float32
    out = torch.empty((len(z), spec.value_size), dtype=z.dtype)
    library.gated_delta(
        *(qkv.data_ptr(), z.dtype == torch.bfloat16, z.data_ptr(), z.stride(0), b.data_ptr(), b.stride(0)),
        *(
            a.data_ptr(),
            a.stride(0),
            weights.A_log.data_ptr(),
            weights.dt_bias.data_ptr(),
            weights.norm_weight.data_ptr(),
        ),
        *(
            weights.norm_eps,
            spec.beta_scale,
            spec.min_log_decay or 0.0,
            state.data_ptr(),
            *_group_arguments(group),
            out.data_ptr(),
        ),
        *(spec.num_key_heads, spec.num_value_heads, spec.key_dim, spec.value_dim, spec.tiles_key_heads),
        *(spec.has_channel_decay, spec.has_sigmoid_gate),
    )
    return out


def run_state_space(
    xbc: torch.Tensor,
    z: torch.Tensor,
    steps: torch.Tensor | None,
    weights: StateSpaceWeights,
    state: torch.Tensor,
    group: StateGroupBatch,
    *,
    spec: StateSpaceSpec,
    library: KernelLibrary,
) -> torch.Tensor:
    """Run a state space, norm and gate (RunStateSpace in ops.py). N, P and a norm's channels: multiples of 16."""
    assert steps is None or z.stride() == steps.stride()
    assert not spec.has_sigmoid_gate or spec.gate is GatePlace.AFTER_NORM
    assert z.stride(1) == 1
    assert xbc.is_contiguous()
    assert xbc.dtype == state.dtype == torch.float32
    scales, is_bf16 = spec.scales, z.dtype == torch.bfloat16
    y = torch.empty((len(z), spec.inner_size), dtype=torch.float32)
    library.state_space(
        *(xbc.data_ptr(), is_bf16, address(steps), z.stride(0), weights.A_log.data_ptr()),
        *(address(weights.dt_bias), address(weights.D)),
        *(1.0 if scales is None else scales.step, spec.min_step, spec.max_step, state.data_ptr()),
        *(*_group_arguments(group), y.data_ptr()),
        *(spec.num_heads, spec.num_groups, spec.state_size, spec.head_dim),
    )
    out = y if z.dtype == torch.float32 else torch.empty((len(z), spec.inner_size), dtype=z.dtype)
    library.gate_and_norm(
        *(y.data_ptr(), is_bf16, z.data_ptr(), z.stride(0), address(weights.norm_weight)),
        *(0.0 if spec.norm is None else spec.norm.eps, spec.gate is GatePlace.BEFORE_NORM, spec.has_sigmoid_gate),
        *(1.0 if scales is None else scales.z, 1.0 if scales is None else scales.out),
        *(out.data_ptr(), *out.shape, spec.num_norms),
    )
    return out


def run_selective_scan(
    inputs: ScanInputs, weights: ScanWeights, state: torch.Tensor, group: StateGroupBatch, *, library: KernelLibrary
) -> torch.Tensor:
    """Run the selective scan and the gate (RunSelectiveScan in ops.py). Channels and N: multiples of 16."""
    x, steps, b, c, z = inputs
    assert x.is_contiguous()
    assert steps.is_contiguous()
    assert weights.A.is_contiguous()
    assert x.dtype == steps.dtype == b.dtype == c.dtype == state.dtype == torch.float32
    assert b.stride() == c.stride()
    assert b.stride(1) == z.stride(1) == 1
    out = torch.empty(x.shape, dtype=z.dtype)
    library.selective_scan(
        *(x.data_ptr(), steps.data_ptr(), b.data_ptr(), c.data_ptr(), b.stride(0)),
        *(address(weights.b_norm), address(weights.c_norm), weights.norm_eps, weights.A.data_ptr()),
        *(weights.D.data_ptr(), z.dtype == torch.bfloat16, z.data_ptr(), z.stride(0), state.data_ptr()),
        *(*_group_arguments(group), out.data_ptr(), x.shape[1], b.shape[1]),
    )
    return out


def run_linear_unit(
    inputs: UnitInputs, weights: UnitWeights, state: torch.Tensor, group: StateGroupBatch, *, library: KernelLibrary
) -> torch.Tensor:
    """Run a gated linear recurrent unit and the gate (RunLinearUnit in ops.py). Channels: a multiple of 16."""
    x, input_gate, decay_gate, z = inputs
    assert all(tensor.dtype == z.dtype for tensor in inputs)
    assert all(tensor.is_contiguous() for tensor in (x, input_gate, decay_gate, state))
    assert z.stride(1) == 1
    assert state.dtype == torch.float32
    out = torch.empty(x.shape, dtype=x.dtype)
    library.linear_unit(
        *(z.dtype == torch.bfloat16, x.data_ptr(), input_gate.data_ptr(), decay_gate.data_ptr()),
        *(z.data_ptr(), z.stride(0), *(weight.data_ptr() for weight in weights), DECAY_SCALE),
        *(state.data_ptr(), *_group_arguments(group), out.data_ptr(), x.shape[1]),
    )
    return out


def shift_rows(
    x: torch.Tensor,
    weight: torch.Tensor,
    state: torch.Tensor,
    group: StateGroupBatch,
    *,
    out_dtype: torch.dtype,
    library: KernelLibrary,
) -> torch.Tensor:
    """Mix each row with the one before it (ShiftRows in ops.py). Channels: a multiple of 16."""
    assert all(tensor.is_contiguous() and tensor.dtype == torch.float32 for tensor in (x, weight, state))
    out = torch.empty((len(weight), *x.shape), dtype=out_dtype)
    library.shift_rows(
        *(x.data_ptr(), weight.data_ptr(), len(weight), state.data_ptr(), *_group_arguments(group)),
        *(out_dtype == torch.bfloat16, out.data_ptr(), x.shape[1]),
    )
    return out


def run_generalized_delta(
    rows: GeneralizedDeltaRows,
    weights: GeneralizedDeltaWeights,
    state: torch.Tensor,
    group: StateGroupBatch,
    *,
    spec: GeneralizedDeltaSpec,
    library: KernelLibrary,
) -> torch.Tensor:
    """Run the generalized delta rule, norm and gate (RunGeneralizedDelta in ops.py). Head size: a multiple of 16."""
    q = rows.q
    assert all(tensor is None or (tensor.is_contiguous() and tensor.dtype == q.dtype) for tensor in rows)
    assert (rows.first_rate is None) == (rows.first_values is None)
    assert state.dtype == torch.float32
    out = torch.empty(q.shape, dtype=q.dtype)
    library.generalized_delta(
        *(q.dtype == torch.bfloat16, *map(address, rows), *(weight.data_ptr() for weight in weights[:5])),
        *(weights.norm_eps, state.data_ptr(), *_group_arguments(group), out.data_ptr()),
        *(spec.num_heads, spec.head_dim),
    )
    return out


def _group_arguments(group: StateGroupBatch) -> tuple[int, int, int, int]:
    """Return the kernels' arguments for a batch: addresses of sources, targets and cu_seqlens, number of sequences."""
    addresses = (group.sources.data_ptr(), group.targets.data_ptr(), group.cu_seqlens.data_ptr())
    return *addresses, len(group.sources)
