"""The C++ kernels of recurrent layers, against torch."""

import pytest
import torch
import torch.nn.functional as F

from models.architecture.norm import NormKind, NormSpec
from models.architecture.recurrence import GatedDeltaSpec
from models.kernels.cpu.library import KernelLibrary
from models.kernels.cpu.recurrence import DeltaGates, DeltaWeights, convolve, run_gated_delta
from models.layers.norm import make_norm
from models.linear.dense import DenseLinearMethod
from models.recurrence.gated_delta import GatedDelta
from models.recurrence.reference_conv import causal_conv
from models.recurrence.reference_delta import gated_delta
from tests.helpers.states import BLOCKS, STEPS, group_of

TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 2**-7}
Step = tuple[list[int], list[int], dict[int, int]]


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("kernel_size", [2, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_conv_between_gates_equals_torch(
    kernels: KernelLibrary, step: Step, kernel_size: int, dtype: torch.dtype
) -> None:
    generator, group = torch.Generator().manual_seed(0), group_of(*step)
    rows = torch.randn(sum(step[0]), 3 * 80, generator=generator).to(dtype)
    b, c, v = rows.chunk(3, dim=1)
    weight, bias = torch.randn(kernel_size, 80, generator=generator), torch.randn(80, generator=generator)
    state = torch.randn(BLOCKS, kernel_size - 1, 80, generator=generator).to(dtype)
    expected_state = state.clone()
    expected = causal_conv(b * v, weight, bias, expected_state, group).to(dtype) * c

    out = convolve(v, weight, state, group, bias=bias, gates=(b, c), out_dtype=dtype, library=kernels)

    torch.testing.assert_close(out, expected, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])
    assert torch.equal(state, expected_state)


@pytest.mark.parametrize("step", STEPS[2:4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_conv_before_silu_equals_torch(kernels: KernelLibrary, step: Step, dtype: torch.dtype) -> None:
    generator, group = torch.Generator().manual_seed(0), group_of(*step)
    rows = torch.randn(sum(step[0]), 112, generator=generator).to(dtype)[:, 16:96]
    weight = torch.randn(3, 80, generator=generator)
    state = torch.randn(BLOCKS, 2, 80, generator=generator).to(dtype)
    expected = F.silu(causal_conv(rows, weight, None, state.clone(), group))

    out = convolve(rows, weight, state, group, has_silu=True, out_dtype=torch.float32, library=kernels)

    torch.testing.assert_close(out, expected, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize(("value_dim", "tiles_key_heads"), [(16, False), (80, True)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gated_delta_rule_equals_torch(
    kernels: KernelLibrary, step: Step, value_dim: int, tiles_key_heads: bool, dtype: torch.dtype
) -> None:
    generator, group = torch.Generator().manual_seed(0), group_of(*step)
    norm = NormSpec(NormKind.RMS, 1e-6)
    spec = GatedDeltaSpec(2, 4, 32, value_dim, kernel_size=2, norm=norm, tiles_key_heads=tiles_key_heads)
    layer = GatedDelta(spec, 64, method=DenseLinearMethod(torch.float32))
    layer.A_log = torch.nn.Parameter(torch.randn(4, generator=generator) - 2)
    layer.dt_bias = torch.nn.Parameter(torch.randn(4, generator=generator))
    layer.norm = make_norm(norm, value_dim)
    layer.norm.weight = torch.nn.Parameter(torch.randn(value_dim, generator=generator))
    qkv = torch.randn(sum(step[0]), spec.conv_size, generator=generator)
    rows = torch.randn(sum(step[0]), spec.value_size + 8, generator=generator).to(dtype)
    z, b, a = rows.split_with_sizes([spec.value_size, 4, 4], dim=1)
    state = torch.randn(BLOCKS, 4, 32, value_dim, generator=generator)
    expected_state = state.clone()
    with torch.no_grad():
        y = layer.norm(gated_delta(layer._delta_rows(qkv, b, a), expected_state, group)).flatten(1)
    expected = (y * F.silu(z.float())).to(dtype)

    weights = DeltaWeights(layer.A_log, layer.dt_bias, layer.norm.weight, norm.eps)
    out = run_gated_delta(
        qkv, DeltaGates(z, b, a), weights, state, group, tiles_key_heads=tiles_key_heads, library=kernels
    )

    torch.testing.assert_close(out, expected, atol=10 * TOLERANCE[dtype], rtol=TOLERANCE[dtype])
    torch.testing.assert_close(state, expected_state, atol=1e-4, rtol=1e-5)
