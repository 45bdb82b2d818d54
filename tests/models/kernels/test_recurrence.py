"""Operations of recurrent layers, in each column of the table, against functions that other tests check."""

import pytest
import torch
import torch.nn.functional as F

from models.kernels.operands import DeltaGates, DeltaWeights
from models.kernels.torch.causal_conv import convolve
from models.kernels.torch.gated_delta import DeltaRows, gated_delta
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


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize(("value_dim", "tiles_key_heads"), [(16, False), (80, True)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gated_delta_rule_equals_its_definition(
    column: Column, step: Step, value_dim: int, tiles_key_heads: bool, dtype: torch.dtype
) -> None:
    generator, group = torch.Generator().manual_seed(0), group_of(*step)
    num_key_heads, num_heads, key_dim, num_rows = 2, 4, 32, sum(step[0])
    A_log, dt_bias = torch.randn(4, generator=generator) - 2, torch.randn(4, generator=generator)
    weights = DeltaWeights(A_log, dt_bias, torch.randn(value_dim, generator=generator), 1e-6)
    sizes = [num_key_heads * key_dim, num_key_heads * key_dim, num_heads * value_dim]
    qkv = torch.randn(num_rows, sum(sizes), generator=generator)
    gates = torch.randn(num_rows, num_heads * value_dim + 8, generator=generator).to(dtype)
    z, b, a = gates.split_with_sizes([num_heads * value_dim, 4, 4], dim=1)
    state = torch.randn(BLOCKS, num_heads, key_dim, value_dim, generator=generator)
    expected_state = state.clone()
    q, k, v = (part.unflatten(1, (-1, dim)) for part, dim in zip(qkv.split(sizes, 1), (32, 32, value_dim), strict=True))
    of_value_head = [head % 2 if tiles_key_heads else head // 2 for head in range(num_heads)]
    q, k = (F.normalize(heads, dim=-1)[:, of_value_head] for heads in (q, k))
    decay = -A_log.exp() * F.softplus(a.float() + dt_bias)
    rows = DeltaRows(q * key_dim**-0.5, k, v, decay, torch.sigmoid(b.float()))
    y = gated_delta(rows, expected_state, group)
    normed = y * torch.rsqrt(y.square().mean(dim=-1, keepdim=True) + 1e-6) * weights.norm_weight
    expected = (normed.flatten(1) * F.silu(z.float())).to(dtype)

    run = column(dtype).gated_delta(key_dim, value_dim)
    out = run(qkv, DeltaGates(z, b, a), weights, state, group, tiles_key_heads=tiles_key_heads)

    torch.testing.assert_close(out, expected, atol=10 * TOLERANCE[dtype], rtol=TOLERANCE[dtype])
    torch.testing.assert_close(state, expected_state, atol=1e-4, rtol=1e-5)
