"""Operations on logits against torch's operators and plain definitions, in each column of the table."""

import pytest
import torch

from models.kernels.operands import Draw
from models.kernels.torch.draw import draw
from models.kernels.torch.truncation import TruncationParams, truncate
from tests.models.kernels.conftest import Column

SIZES = [1, 7, 16, 300, 1024, 5003]  # of the vocabulary: below, at and beyond whole vectors and runs


def _logits(num_rows: int, size: int, spread: float = 2.0) -> torch.Tensor:
    """Rows of a wider matrix, as the padded logits of a model may be."""
    generator = torch.Generator().manual_seed(size)
    return (torch.randn(num_rows, size + 5, generator=generator) * spread)[:, :size]


@pytest.mark.parametrize("size", SIZES)
def test_best_is_the_first_of_the_largest(column: Column, size: int) -> None:
    logits = _logits(9, size)
    logits[3, size // 2 :] = 50.0  # a tie
    logits[4] = -torch.inf
    logits[4, size - 1] = -3.0

    values, ids = column(torch.float32).logits().best_ids(logits)

    assert torch.equal(values, logits.max(dim=-1).values)
    assert ids.tolist() == [row.tolist().index(row.max()) for row in logits]


@pytest.mark.parametrize("size", SIZES)
def test_top1_probs_are_the_softmax_at_the_largest(column: Column, size: int) -> None:
    logits = _logits(9, size, spread=5.0)
    values, _ = column(torch.float32).logits().best_ids(logits)
    expected = torch.softmax(logits.double(), dim=-1).amax(dim=-1)
    torch.testing.assert_close(
        column(torch.float32).logits().top1_probs(logits, values).double(), expected, rtol=1e-5, atol=0.0
    )


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("strange", [torch.nan, torch.inf])
def test_best_tells_of_rows_that_are_not_finite(column: Column, size: int, strange: float) -> None:
    logits = _logits(size, size) if size < 30 else _logits(30, size)
    for row in range(len(logits)):
        logits[row, row * size // len(logits)] = strange

    values, _ = column(torch.float32).logits().best_ids(logits)

    assert not torch.isfinite(values).any()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5])
def test_draws_without_limits_fall_where_the_cumulative_distribution_says(
    column: Column, size: int, temperature: float
) -> None:
    uniforms = torch.linspace(0.0, 1 - 1e-9, 64, dtype=torch.float64)
    logits = _logits(1, size).expand(64, size).contiguous()

    ids = (
        column(torch.float32).logits().draw_ids(logits, [Draw(temperature, 0, 1.0, 0.0, u) for u in uniforms.tolist()])
    )

    cumulative = torch.softmax(logits[0].double() / temperature, dim=-1).cumsum(0)
    below = torch.cat([torch.zeros(1, dtype=torch.float64), cumulative])[ids]
    assert bool((below <= uniforms + 1e-6).all())
    assert bool((uniforms <= cumulative[ids] + 1e-6).all())


LIMITS = [(0, 0.9, 0.0), (5, 1.0, 0.0), (3, 0.5, 0.0), (0, 1.0, 0.1), (50, 0.95, 0.05), (0, 0.9999, 0.0), (1, 1.0, 0.0)]


@pytest.mark.parametrize("size", [1, 7, 300, 5003])
@pytest.mark.parametrize("spread", [0.1, 1.0, 4.0])  # nearly flat: the nucleus is most of the vocabulary
@pytest.mark.parametrize("limits", LIMITS)
def test_limited_draws_are_those_of_the_torch_operators(
    column: Column, size: int, spread: float, limits: tuple[int, float, float]
) -> None:
    top_k, top_p, min_p = limits
    logits = _logits(40, size, spread)
    logits[5:9] = logits[5:9].round()  # ties, also where a limit cuts
    uniforms = torch.rand(40, dtype=torch.float64, generator=torch.Generator().manual_seed(1))

    drawn = (
        column(torch.float32).logits().draw_ids(logits, [Draw(1.0, top_k, top_p, min_p, u) for u in uniforms.tolist()])
    )

    params = TruncationParams(
        torch.full((40,), top_k), *(torch.full((40,), p, dtype=torch.float64) for p in (top_p, min_p))
    )
    ids, weights = truncate(logits, params)
    assert drawn == ids.gather(-1, draw(weights, uniforms).unsqueeze(-1)).squeeze(-1).tolist()


def test_masked_tokens_are_never_drawn(column: Column) -> None:
    logits = torch.full((3, 2000), -torch.inf)
    logits[:, 1500] = 1.0
    draws = [Draw(1.0, 0, 1.0, 0.0, 0.999999), Draw(1.0, 100, 1.0, 0.0, 0.999999), Draw(1.0, 0, 0.99, 0.0, 0.0)]

    assert column(torch.float32).logits().draw_ids(logits, draws) == [1500] * 3


@pytest.mark.parametrize("size", [*SIZES, 40_000])
def test_masked_rows_lose_what_their_bits_do_not_allow(column: Column, size: int) -> None:
    logits = _logits(5, size)
    generator = torch.Generator().manual_seed(size)
    is_allowed = torch.rand(3, size, generator=generator) < 0.5
    is_allowed[1] = True
    words = torch.nn.functional.pad(is_allowed.long(), (0, -size % 32)).view(3, -1, 32)
    masks = (words << torch.arange(32)).sum(-1).to(torch.int32)
    expected = logits.clone()
    expected[[4, 0, 2]] = expected[[4, 0, 2]].masked_fill(~is_allowed, -torch.inf)

    column(torch.float32).logits().mask_rows(logits, [4, 0, 2], masks)

    assert torch.equal(logits, expected)


@pytest.mark.parametrize("size", SIZES)
def test_log_sums_are_the_same_alone_and_in_a_batch(column: Column, size: int) -> None:
    logits, ops = _logits(9, size, spread=5.0), column(torch.float32).logits()
    sums = ops.log_sums(logits)
    torch.testing.assert_close(sums.double(), logits.double().logsumexp(dim=-1), rtol=1e-6, atol=1e-5)
    assert torch.equal(sums, torch.cat([ops.log_sums(row.unsqueeze(0)) for row in logits]))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("top", [1, 5, 20])
def test_top_ids_are_the_largest_and_of_equal_ones_the_first(column: Column, size: int, top: int) -> None:
    logits = _logits(9, size).mul(4).round()  # many ties
    logits[4, 1:] = -torch.inf
    values, ids = column(torch.float32).logits().top_ids(logits, top)
    expected = [sorted(range(size), key=lambda token_id: -row[token_id])[:top] for row in logits.tolist()]
    assert ids.tolist() == expected
    assert torch.equal(values, logits.gather(-1, ids))
