"""Operations of recurrent layers, in each column of the table, against functions that other tests check."""

import pytest
import torch
import torch.nn.functional as F

from models.architecture.norm import NormKind, NormSpec
from models.architecture.recurrence import GatedDeltaSpec, GatePlace, StateSpaceScales, StateSpaceSpec
from models.kernels.operands import (
    DeltaGates,
    DeltaWeights,
    ScanInputs,
    ScanWeights,
    StateSpaceWeights,
    UnitInputs,
    UnitWeights,
)
from models.kernels.torch.causal_conv import convolve
from models.kernels.torch.gated_delta import DeltaRows, gated_delta
from models.kernels.torch.linear_unit import UnitRows, linear_unit
from models.kernels.torch.selective_scan import ScanRows, selective_scan
from models.kernels.torch.state_space import StateSpaceRows, state_space
from tests.helpers.states import BLOCKS, STEPS, group_of
from tests.models.kernels.conftest import Column

TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 2**-7}
Step = tuple[list[int], list[int], dict[int, int]]


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("kernel_size", [2, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_conv_between_gates_equals_torch(column: Column, step: Step, kernel_size: int, dtype: torch.dtype) -> None:
    generator, group = torch.Generator().manual_seed(0), group_of(*step)
    rows = torch.randn(sum(step[0]), 3 * 80, generator=generator).to(dtype)
    b, c, v = rows.chunk(3, dim=1)
    weight, bias = torch.randn(kernel_size, 80, generator=generator), torch.randn(80, generator=generator)
    state = torch.randn(BLOCKS, kernel_size - 1, 80, generator=generator).to(dtype)
    expected_state = state.clone()
    convolved = convolve(b * v, weight, expected_state, group, bias=bias, out_dtype=torch.float32)
    expected = convolved.to(dtype) * c

    out = column(dtype).convolve(kernel_size, 80)(v, weight, state, group, bias=bias, gates=(b, c), out_dtype=dtype)

    torch.testing.assert_close(out, expected, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])
    assert torch.equal(state, expected_state)


@pytest.mark.parametrize("step", STEPS[2:4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_conv_before_silu_equals_torch(column: Column, step: Step, dtype: torch.dtype) -> None:
    generator, group = torch.Generator().manual_seed(0), group_of(*step)
    rows = torch.randn(sum(step[0]), 112, generator=generator).to(dtype)[:, 16:96]
    weight = torch.randn(3, 80, generator=generator)
    state = torch.randn(BLOCKS, 2, 80, generator=generator).to(dtype)
    expected = F.silu(convolve(rows, weight, state.clone(), group, out_dtype=torch.float32))

    out = column(dtype).convolve(3, 80)(rows, weight, state, group, has_silu=True, out_dtype=torch.float32)

    torch.testing.assert_close(out, expected, atol=2e-5, rtol=2e-5)


NORM = NormSpec(NormKind.RMS, 1e-3)
DELTAS = {
    "neighbors-share": GatedDeltaSpec(2, 4, 32, 16, 4, NORM),
    "channel-decay": GatedDeltaSpec(2, 4, 32, 48, 4, NORM, has_channel_decay=True, gate_rank=16, has_sigmoid_gate=True),
    "bounded-decay": GatedDeltaSpec(2, 4, 32, 16, 4, NORM, has_channel_decay=True, min_log_decay=-5.0),
    "tiled-twice-b": GatedDeltaSpec(2, 4, 32, 80, 4, NORM, tiles_key_heads=True, beta_scale=2.0),
}


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("spec", DELTAS.values(), ids=DELTAS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gated_delta_rule_equals_its_definition(
    column: Column, step: Step, spec: GatedDeltaSpec, dtype: torch.dtype
) -> None:
    generator, group, num_rows = torch.Generator().manual_seed(0), group_of(*step), sum(step[0])
    num_heads, key_dim, value_dim = spec.num_value_heads, spec.key_dim, spec.value_dim
    A_log, dt_bias = (torch.randn(size, generator=generator) for size in (4, spec.num_decays))
    weights = DeltaWeights(A_log, dt_bias, torch.randn(value_dim, generator=generator), 1e-6)
    sizes = [spec.key_size, spec.key_size, spec.value_size]
    qkv = torch.randn(num_rows, sum(sizes), generator=generator)
    gates = torch.randn(num_rows, spec.value_size + 4 + spec.num_decays, generator=generator).to(dtype)
    z, b, a = gates.split_with_sizes([spec.value_size, 4, spec.num_decays], dim=1)
    state = torch.randn(BLOCKS, num_heads, key_dim, value_dim, generator=generator)
    expected_state = state.clone()
    q, k, v = (part.unflatten(1, (-1, dim)) for part, dim in zip(qkv.split(sizes, 1), (32, 32, value_dim), strict=True))
    of_value_head = [head % 2 if spec.tiles_key_heads else head // 2 for head in range(num_heads)]
    q, k = (F.normalize(heads, dim=-1)[:, of_value_head] for heads in (q, k))
    shifted, rates = (a.float() + dt_bias).unflatten(1, (4, -1)), A_log.exp()[:, None]
    decay = -rates * F.softplus(shifted) if spec.min_log_decay is None else -5.0 * torch.sigmoid(rates * shifted)
    rows = DeltaRows(q * key_dim**-0.5, k, v, decay, spec.beta_scale * torch.sigmoid(b.float()))
    y = gated_delta(rows, expected_state, group)
    normed = y * torch.rsqrt(y.square().mean(dim=-1, keepdim=True) + 1e-6) * weights.norm_weight
    gate = torch.sigmoid if spec.has_sigmoid_gate else F.silu
    expected = (normed.flatten(1) * gate(z.float())).to(dtype)

    out = column(dtype).gated_delta(spec)(qkv, DeltaGates(z, b, a), weights, state, group)

    torch.testing.assert_close(out, expected, atol=10 * TOLERANCE[dtype], rtol=TOLERANCE[dtype])
    torch.testing.assert_close(state, expected_state, atol=1e-4, rtol=1e-5)


RATES = (0.5, 0.1, 0.02, 1e-5)
SPACES = {
    "gate-before-norm": StateSpaceSpec(4, 32, 2, 16, 4, NORM, min_step=0.05, max_step=0.9),
    "gate-after-norm": StateSpaceSpec(10, 80, 1, 32, 4, NORM, GatePlace.AFTER_NORM),
    "no-norm": StateSpaceSpec(2, 16, 2, 64, 4, None, scales=StateSpaceScales(0.7, 1.0, 1.0, 1.0, 1.3, 0.6)),
    "no-kernel-takes-it": StateSpaceSpec(4, 20, 2, 12, 4, NORM),
    "fixed-decays": StateSpaceSpec(
        4, 32, 4, 32, None, NORM, GatePlace.AFTER_NORM, rates=RATES, norms_all_channels=True, has_sigmoid_gate=True
    ),
}


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("spec", SPACES.values(), ids=SPACES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_state_space_equals_its_definition(
    column: Column, step: Step, spec: StateSpaceSpec, dtype: torch.dtype
) -> None:
    generator, group, heads, inner = torch.Generator().manual_seed(0), group_of(*step), spec.num_heads, spec.inner_size
    num_rows, groups = sum(step[0]), (spec.num_groups, spec.state_size)
    A_log, dt_bias, D = (torch.randn(heads, generator=generator) for _ in range(3))
    if spec.rates is not None:
        A_log, D = torch.tensor(spec.rates).log(), torch.zeros(heads)
    norm_weight = None if spec.norm is None else torch.randn(inner, generator=generator)
    xbc = torch.randn(num_rows, spec.conv_size, generator=generator)
    rows = torch.randn(num_rows, inner + heads + 4, generator=generator).to(dtype)
    z, dt, _ = rows.split([inner, heads, 4], dim=1)
    state = torch.randn(BLOCKS, heads, spec.state_size, spec.head_dim, generator=generator)
    expected_state = state.clone()
    scales = spec.scales or StateSpaceScales(1.0, 1.0, 1.0, 1.0, 1.0, 1.0)
    steps = F.softplus(scales.step * dt.float() + dt_bias).clamp(spec.min_step, spec.max_step)
    steps = torch.ones_like(steps) if spec.rates is not None else steps
    keys = spec.num_groups * spec.state_size
    x, b, c = (
        part.unflatten(1, sizes)
        for part, sizes in zip(xbc.split([inner, keys, keys], 1), ((heads, -1), groups, groups), strict=True)
    )
    y = state_space(StateSpaceRows(steps[..., None] * x, b, c, -A_log.exp() * steps), expected_state, group)
    y = (y + D[:, None] * x).flatten(1)
    gate = (torch.sigmoid if spec.has_sigmoid_gate else F.silu)(scales.z * z.float())
    if spec.norm is None:
        expected = y * gate
    else:
        gates_first = spec.gate is GatePlace.BEFORE_NORM
        runs = (y * gate if gates_first else y).unflatten(1, (spec.num_norms, -1))
        normed = (runs * torch.rsqrt(runs.square().mean(-1, keepdim=True) + 1e-3)).flatten(1) * norm_weight
        expected = normed if gates_first else normed * gate
    expected = (scales.out * expected).to(dtype)

    is_fixed = spec.rates is not None
    weights = StateSpaceWeights(A_log, None if is_fixed else dt_bias, None if is_fixed else D, norm_weight)
    out = column(dtype).state_space(spec)(xbc, z, None if is_fixed else dt, weights, state, group)

    torch.testing.assert_close(out, expected, atol=10 * TOLERANCE[dtype], rtol=TOLERANCE[dtype])
    torch.testing.assert_close(state, expected_state, atol=1e-4, rtol=1e-5)
    assert torch.tensor([1e-39]) * 0.5 > 0, "subnormal numbers are zeros after the kernel"


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize(("channels", "state_size", "has_norms"), [(80, 16, False), (32, 48, True), (20, 8, True)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_selective_scan_equals_its_definition(
    column: Column, step: Step, channels: int, state_size: int, has_norms: bool, dtype: torch.dtype
) -> None:
    generator, group, num_rows = torch.Generator().manual_seed(0), group_of(*step), sum(step[0])
    x, steps = (torch.randn(num_rows, channels, generator=generator) for _ in range(2))
    z = torch.randn(num_rows, 2 * channels, generator=generator).to(dtype)[:, channels:]
    _, b, c = torch.randn(num_rows, 4 + 2 * state_size, generator=generator).split([4, state_size, state_size], dim=1)
    b_norm, c_norm = (torch.randn(state_size, generator=generator) if has_norms else None for _ in range(2))
    rates = -torch.rand(state_size, channels, generator=generator)
    D = torch.randn(channels, generator=generator)
    state = torch.randn(BLOCKS, state_size, channels, generator=generator)
    expected_state = state.clone()
    keys, queries = (
        part if norm is None else part * torch.rsqrt(part.square().mean(-1, keepdim=True) + 1e-3) * norm
        for part, norm in ((b, b_norm), (c, c_norm))
    )
    d = F.softplus(steps)
    y = selective_scan(ScanRows(d, d * x, keys, queries), rates, expected_state, group) + D * x
    expected = (y * F.silu(z.float())).to(dtype)

    run = column(dtype).selective_scan(channels, state_size)
    out = run(ScanInputs(x, steps, b, c, z), ScanWeights(rates, D, b_norm, c_norm, 1e-3), state, group)

    torch.testing.assert_close(out, expected, atol=10 * TOLERANCE[dtype], rtol=TOLERANCE[dtype])
    torch.testing.assert_close(state, expected_state, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("channels", [80, 20])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_linear_unit_equals_its_definition(column: Column, step: Step, channels: int, dtype: torch.dtype) -> None:
    generator, group, num_rows = torch.Generator().manual_seed(0), group_of(*step), sum(step[0])
    x, in_i, in_a = (torch.randn(num_rows, channels, generator=generator).to(dtype) for _ in range(3))
    z = torch.randn(num_rows, 2 * channels, generator=generator).to(dtype)[:, channels:]
    weights = UnitWeights(
        *(torch.randn(channels, generator=generator) for _ in range(2)), torch.linspace(-14, 3, channels)
    )
    state = torch.randn(BLOCKS, channels, generator=generator)
    expected_state = state.clone()
    sigmoid = torch.sigmoid(in_a.double() + weights.decay_bias)
    decay = (-8 * F.softplus(weights.rate.double()) * sigmoid).exp()
    factor = (1 - decay.square()).sqrt()
    starts = group.cu_seqlens[:-1].tolist()
    for start, source in zip(starts, step[1], strict=True):
        if source < 0:
            factor[start] = 1.0
    value = factor * torch.sigmoid(in_i.double() + weights.input_bias) * x
    h = linear_unit(UnitRows(decay.float(), value.float()), expected_state, group)
    expected = (h * F.gelu(z.float(), approximate="tanh")).to(dtype)

    out = column(dtype).linear_unit(channels)(UnitInputs(x, in_i, in_a, z), weights, state, group)

    torch.testing.assert_close(out, expected, atol=10 * TOLERANCE[dtype], rtol=TOLERANCE[dtype])
    torch.testing.assert_close(state, expected_state, atol=1e-4, rtol=1e-5)
