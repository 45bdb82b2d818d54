"""The generalized delta rule and token shifts, in each column of operations."""

import math

import pytest
import torch
import torch.nn.functional as F

from models.architecture.norm import NormKind, NormSpec
from models.architecture.recurrence import GeneralizedDeltaSpec
from models.kernels.operands import GeneralizedDeltaRows, GeneralizedDeltaWeights
from models.kernels.torch.generalized_delta import UpdateRows, generalized_delta
from models.kernels.torch.token_shift import shift_rows
from tests.helpers.states import BLOCKS, STEPS, group_of
from tests.models.kernels.conftest import Column
from tests.models.kernels.test_recurrence import TOLERANCE, Step

HEADS = 3


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("head_dim", [16, 80])
@pytest.mark.parametrize("has_first_values", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_generalized_delta_rule_equals_its_definition(
    column: Column, step: Step, head_dim: int, has_first_values: bool, dtype: torch.dtype
) -> None:
    generator, group, channels = torch.Generator().manual_seed(0), group_of(*step), HEADS * head_dim
    rows = GeneralizedDeltaRows(
        *(torch.randn(sum(step[0]), channels, generator=generator).to(dtype) for _ in range(6 + 2 * has_first_values))
    )
    weights = GeneralizedDeltaWeights(*(torch.randn(channels, generator=generator) for _ in range(5)), 1e-3)
    spec = GeneralizedDeltaSpec(HEADS, head_dim, 16, 16, 16, 16, NormSpec(NormKind.LAYER, 1e-3, has_bias=True))
    state = torch.randn(BLOCKS, HEADS, head_dim, head_dim, generator=generator)
    expected_state = state.clone()
    expected = by_definition(rows, weights, expected_state, group).to(dtype)

    out = column(dtype).generalized_delta(spec)(rows, weights, state, group)

    torch.testing.assert_close(out, expected, atol=10 * TOLERANCE[dtype], rtol=TOLERANCE[dtype])
    torch.testing.assert_close(state, expected_state, atol=1e-4, rtol=1e-5)


def by_definition(
    rows: GeneralizedDeltaRows, weights: GeneralizedDeltaWeights, state: torch.Tensor, group: object
) -> torch.Tensor:
    q, decay, k, v, rate, gate = (tensor.float() for tensor in rows[:6])
    if rows.first_rate is not None:
        share = torch.sigmoid(rows.first_rate.float())
        v = (1 - share) * v + share * rows.first_values.float()
    rate, k_of_c = torch.sigmoid(rate), k * weights.k_k
    k = k * (1 - weights.k_a) + k * weights.k_a * rate
    q, k, v, rate, k_of_c, decay = (each.unflatten(1, (HEADS, -1)) for each in (q, k, v, rate, k_of_c, decay))
    c = k_of_c / k_of_c.norm(dim=2, keepdim=True)
    y = generalized_delta(UpdateRows(q, k, v, c, rate * c, -math.exp(-0.5) * torch.sigmoid(decay)), state, group)
    y = F.group_norm(y.flatten(1), HEADS, weights.norm_weight, weights.norm_bias, weights.norm_eps)
    own = (q * k * weights.r_k.unflatten(0, (HEADS, -1))).sum(2, keepdim=True) * v
    return (y + own.flatten(1)) * gate


@pytest.mark.parametrize("name", GeneralizedDeltaRows._fields)
def test_a_number_that_is_not_finite_remains_visible(column: Column, name: str) -> None:
    generator, group = torch.Generator().manual_seed(0), group_of([2], [0], {})
    rows = GeneralizedDeltaRows(*(torch.randn(2, 16, generator=generator) for _ in range(8)))
    getattr(rows, name)[0, 3] = torch.nan
    weights = GeneralizedDeltaWeights(*(torch.randn(16, generator=generator) for _ in range(5)), 1e-3)
    spec = GeneralizedDeltaSpec(1, 16, 16, 16, 16, 16, NormSpec(NormKind.LAYER, 1e-3, has_bias=True))

    out = column(torch.float32).generalized_delta(spec)(rows, weights, torch.ones(1, 1, 16, 16), group)

    assert out.isnan().any()


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("num_mixtures", [1, 6])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_shifted_rows_equal_torch(column: Column, step: Step, num_mixtures: int, dtype: torch.dtype) -> None:
    generator, group = torch.Generator().manual_seed(0), group_of(*step)
    x, weight = (torch.randn(size, 80, generator=generator) for size in (sum(step[0]), num_mixtures))
    state = torch.randn(BLOCKS, 1, 80, generator=generator)
    expected_state = state.clone()
    expected = shift_rows(x, weight, expected_state, group, out_dtype=torch.float32).to(dtype)

    out = column(dtype).shift_rows(80)(x, weight, state, group, out_dtype=dtype)

    torch.testing.assert_close(out, expected, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])
    assert torch.equal(state, expected_state)
