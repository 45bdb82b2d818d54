"""GPTQ against a column-by-column reference, and the factors that go with it."""

import pytest
import torch

from models.errors import CheckpointError
from models.quant.activations import round_by_token
from models.quant.dequantize import dequantize
from models.quant.equalize import column_factors
from models.quant.gptq import factor_inputs, quantize_for_inputs, quantize_to_nearest
from models.quant.nibbles import unpack_nibbles
from models.quant.tensor import Encoding, QuantTensor

SIZE = 32


def matrix(rows: int = 12, columns: int = 160, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


def hessian_of(columns: int = 160, seed: int = 1) -> torch.Tensor:
    """Return the hessian of correlated inputs, much larger in some columns than in others."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(columns, columns, generator=generator) * columns**-0.5 + torch.eye(columns)
    sizes = torch.rand(columns, generator=generator) ** 3 * 4 + 0.1
    x = torch.randn(4 * columns, columns, generator=generator) @ mixing * sizes
    return x.t() @ x


def error(weight: torch.Tensor, quantized: QuantTensor, hessian: torch.Tensor) -> float:
    difference = weight - dequantize(quantized, torch.float32)
    return float(((difference @ hessian) * difference).sum())


def numbers_of(encoding: Encoding) -> torch.Tensor:
    """Return all numbers that a code can represent, in order."""
    if encoding is not Encoding.FP8_E4M3:
        return torch.arange(-8, 8).double()
    decoded = torch.arange(256).to(torch.uint8).view(torch.float8_e4m3fn).double()
    return decoded[decoded.isfinite()].sort().values


def reference_levels(
    weight: torch.Tensor, scales: torch.Tensor, hessian: torch.Tensor, encoding: Encoding
) -> torch.Tensor:
    """Compute optimal brain quantization in fp64: round a column, solve again for the remaining ones."""
    numbers = numbers_of(encoding)
    remaining = weight.double().clone()
    damped = hessian.double() + torch.eye(len(hessian)).double() * hessian.double().diagonal().mean() * 0.05
    divisors = scales.double().repeat_interleave(SIZE, 1)
    levels = torch.zeros_like(remaining)
    order = hessian.diagonal().argsort(descending=True, stable=True).tolist()
    while order:
        column = order[0]
        values = remaining[:, column] / divisors[:, column]
        levels[:, column] = numbers[(values[:, None] - numbers).abs().argmin(1)]
        inverse = torch.linalg.inv(damped[order][:, order])
        miss = (remaining[:, column] - levels[:, column] * divisors[:, column]) / inverse[0, 0]
        remaining[:, order] -= miss[:, None] * inverse[0]
        order = order[1:]
    return levels


@pytest.mark.parametrize("encoding", [Encoding.INT4, Encoding.FP8_E4M3])
def test_codes_are_those_of_solving_anew_for_every_column(encoding: Encoding) -> None:
    weight, hessian = matrix(), hessian_of()
    found = quantize_for_inputs(weight, factor_inputs(hessian), encoding, SIZE, torch.bfloat16)
    levels = unpack_nibbles(found.codes).double() - 8 if encoding is Encoding.INT4 else found.codes.double()
    expected = reference_levels(weight, found.scales, hessian, encoding)
    assert (levels == expected).double().mean() > 0.999  # fp32 may take the other side of a tie
    assert found.scales.dtype == torch.bfloat16


@pytest.mark.parametrize("encoding", [Encoding.INT4, Encoding.INT8, Encoding.FP8_E4M3])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_products_are_nearer_than_with_rounding_to_the_nearest(encoding: Encoding, seed: int) -> None:
    weight, hessian = matrix(seed=seed), hessian_of(seed=seed + 10)
    size = SIZE if encoding is Encoding.INT4 else 160
    nearest = quantize_to_nearest(weight, encoding, size, torch.bfloat16)
    for_inputs = quantize_for_inputs(weight, factor_inputs(hessian), encoding, size, torch.bfloat16)
    assert error(weight, for_inputs, hessian) < 0.6 * error(weight, nearest, hessian)


@pytest.mark.parametrize("encoding", [Encoding.INT4, Encoding.FP8_E4M3])
def test_scales_heed_the_columns_with_large_inputs(encoding: Encoding) -> None:
    weight, hessian = matrix(), hessian_of()
    even = quantize_to_nearest(weight, encoding, SIZE, torch.float32, torch.ones(160))
    weighted = quantize_to_nearest(weight, encoding, SIZE, torch.float32, hessian.diagonal())
    diagonal = torch.diag(hessian.diagonal())
    assert error(weight, weighted, diagonal) < error(weight, even, diagonal)


@pytest.mark.parametrize("encoding", [Encoding.INT4, Encoding.FP8_E4M3])
def test_inputs_that_are_independent_leave_rounding_to_the_nearest(encoding: Encoding) -> None:
    weight, hessian = matrix(), torch.eye(160) * 7
    found = quantize_for_inputs(weight, factor_inputs(hessian), encoding, SIZE, torch.float16)
    nearest = quantize_to_nearest(weight, encoding, SIZE, torch.float16, torch.ones(160))
    assert torch.equal(found.codes.view(torch.uint8), nearest.codes.view(torch.uint8))


def test_fp8_scales_lie_where_the_binades_fit_the_numbers() -> None:
    """All but one number just above a power of two of the extreme's scale, where E4M3 is coarsest for them."""
    weight = torch.full((1, SIZE), 1.03)
    weight[0, 0] = 1.75 * 4  # 448 is 1.75 * 256
    extreme = quantize_to_nearest(weight, Encoding.FP8_E4M3, SIZE, torch.float32)
    fitted = quantize_to_nearest(weight, Encoding.FP8_E4M3, SIZE, torch.float32, torch.ones(SIZE))
    same = torch.eye(SIZE)
    assert error(weight, fitted, same) < 0.5 * error(weight, extreme, same)


def test_matrices_without_inputs_are_rounded_to_the_nearest() -> None:
    """Experts to which no token was sent."""
    weight = matrix()
    unseen = quantize_for_inputs(weight, factor_inputs(torch.zeros(160, 160)), Encoding.INT4, SIZE, torch.bfloat16)
    nearest = quantize_to_nearest(weight, Encoding.INT4, SIZE, torch.bfloat16)
    assert torch.equal(dequantize(unseen, torch.float32), dequantize(nearest, torch.float32))


def test_groups_without_inputs_keep_their_weights() -> None:
    weight, hessian = matrix(), hessian_of()
    hessian[:SIZE] = hessian[:, :SIZE] = 0.0
    found = dequantize(
        quantize_for_inputs(weight, factor_inputs(hessian), Encoding.INT4, SIZE, torch.bfloat16), torch.float32
    )
    assert (found[:, :SIZE] - weight[:, :SIZE]).norm() < 0.12 * weight[:, :SIZE].norm()


def test_inputs_without_numbers_are_refused() -> None:
    with pytest.raises(CheckpointError, match="not finite"):
        quantize_for_inputs(
            matrix(), factor_inputs(torch.full((160, 160), torch.nan)), Encoding.INT4, SIZE, torch.bfloat16
        )


@pytest.mark.parametrize("encoding", [Encoding.INT4, Encoding.INT8, Encoding.FP8_E4M3])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_codes_are_chosen_for_the_stored_scales(encoding: Encoding, dtype: torch.dtype) -> None:
    weight = matrix()
    found = quantize_to_nearest(weight, encoding, SIZE if encoding is Encoding.INT4 else 160, dtype)
    assert found.scales.dtype == dtype
    step = found.scales.float().abs().repeat_interleave(found.group_size, 1)
    miss = (dequantize(found, torch.float32) - weight).abs()
    if encoding is Encoding.FP8_E4M3:
        assert (miss <= weight.abs() * 2**-4 + step * 2**-9).all()
    else:
        is_clipped = miss > step * 0.5001
        assert is_clipped.float().mean() < 0.03  # the extremes of groups


def inputs_of(columns: int = 160, seed: int = 1) -> torch.Tensor:
    """Rows of very different columns, correlated."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(columns, columns, generator=generator) * columns**-0.5 + torch.eye(columns)
    sizes = torch.rand(columns, generator=generator) ** 3 * 4 + 0.1
    return torch.randn(4 * columns, columns, generator=generator) @ mixing * sizes


def test_factors_leave_less_error_where_inputs_differ_in_size() -> None:
    weight, rows = matrix(rows=600), inputs_of()
    sizes = rows.square().sum(0)
    factors = column_factors(weight, sizes, rows[::5], Encoding.INT4, SIZE, rounds_inputs=False)
    fresh = inputs_of()[1::5]
    nearest = quantize_to_nearest(weight, Encoding.INT4, SIZE, torch.float32, sizes)
    scaled = quantize_to_nearest(weight * factors, Encoding.INT4, SIZE, torch.float32, sizes / factors.square())
    folded = fresh / factors
    assert factors.amax() > 1.2
    assert error(weight * factors, scaled, folded.t() @ folded) < 0.9 * error(weight, nearest, fresh.t() @ fresh)


def test_factors_take_peaks_off_inputs_that_are_rounded_too() -> None:
    weight = matrix(rows=48)
    rows = torch.randn(64, 160, generator=torch.Generator().manual_seed(5))
    rows[:, 3] *= 100.0
    factors = column_factors(weight, rows.square().sum(0), rows, Encoding.INT8, 160, rounds_inputs=True)
    assert factors[3] > 4 * factors.median()
    assert (rows / factors).abs().amax(1).mean() < 0.5 * rows.abs().amax(1).mean() / factors.median()


def test_a_token_with_massive_activations_does_not_choose_for_the_others() -> None:
    generator = torch.Generator().manual_seed(0)
    weight, rows = torch.randn(48, 160, generator=generator), torch.randn(64, 160, generator=generator)
    rows[:, 3] *= 20
    rows[0] *= 1e4 * torch.rand(160, generator=generator) ** 8
    sizes = rows.square().sum(0)

    def others_error(factors: torch.Tensor) -> float:
        scaled = quantize_to_nearest(weight * factors, Encoding.INT8, 160, torch.float32, sizes / factors.square())
        found = round_by_token(rows / factors, Encoding.INT8) @ dequantize(scaled, torch.float32).t()
        expected = rows @ weight.t()
        return float(((found - expected).square().sum(1) / expected.square().sum(1))[1:].mean())

    factors = column_factors(weight, sizes, rows, Encoding.INT8, 160, rounds_inputs=True)
    assert others_error(factors) < 1.05 * others_error(torch.ones(160))


def test_products_over_the_hessian_are_the_weights_that_give_them() -> None:
    weight, hessian = matrix(), hessian_of()
    inputs = factor_inputs(hessian)
    damped = hessian + torch.eye(160) * hessian.diagonal().mean() * 0.05
    torch.testing.assert_close(inputs.solve(weight @ damped), weight, rtol=1e-3, atol=1e-3)
