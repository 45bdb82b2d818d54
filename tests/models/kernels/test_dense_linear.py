"""Packed bf16 and fp32 linear layers against a float64 product of the same numbers."""

import pytest
import torch
import torch.nn.functional as F

from models.kernels.cpu.library import KernelLibrary
from models.kernels.cpu.linear import PackedLinear
from models.kernels.cpu.packed_weight import gather_rows, pack_weight
from models.kernels.formats import DENSE_DTYPES, WeightFormat
from models.kernels.row_input import InputKind, RowInput

FORMATS = list(DENSE_DTYPES)
each_format = pytest.mark.parametrize("fmt", FORMATS)


def _matrix(fmt: WeightFormat, rows: int, columns: int, seed: int = 0) -> torch.Tensor:
    numbers = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))
    return numbers.to(DENSE_DTYPES[fmt])


def _layer(
    fmt: WeightFormat,
    kernels: KernelLibrary,
    *matrices: torch.Tensor,
    biases: list[torch.Tensor | None] | None = None,
) -> PackedLinear:
    packed = [pack_weight(fmt, matrix, *matrix.shape, library=kernels) for matrix in matrices]
    return PackedLinear(packed, biases, library=kernels)


@each_format
@pytest.mark.parametrize("rows", [1, 2, 3, 4, 5, 7, 8, 9, 13, 65, 131])
@pytest.mark.parametrize(("outputs", "columns"), [(1, 16), (83, 576), (33, 80), (200, 4864), (4099, 64)])
def test_product_equals_float64_product(
    kernels: KernelLibrary, fmt: WeightFormat, outputs: int, columns: int, rows: int
) -> None:
    weight, x = _matrix(fmt, outputs, columns), _matrix(fmt, rows, columns, seed=1)
    layer = _layer(fmt, kernels, weight)
    want = x.double() @ weight.double().T
    got = layer(x, out_dtype=torch.float32)
    torch.testing.assert_close(got.double(), want, atol=1e-5 * columns**0.5, rtol=1e-5)
    assert torch.equal(layer(x, out_dtype=torch.bfloat16), got.bfloat16())
    assert torch.equal(layer(x.float()), got)


@each_format
@pytest.mark.parametrize("columns", [64, 80])
@pytest.mark.parametrize("rows", [120, 222, 255, 256, 500])
def test_panels_that_are_full_or_nearly_so(kernels: KernelLibrary, fmt: WeightFormat, columns: int, rows: int) -> None:
    """Up to where register tiles reach beyond the last row, at each level."""
    weight, x = _matrix(fmt, 144, columns), _matrix(fmt, rows, columns, seed=1)
    got = _layer(fmt, kernels, weight)(x, out_dtype=torch.float32)
    torch.testing.assert_close(got.double(), x.double() @ weight.double().T, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("columns", [96, 4864])
def test_a_bf16_row_has_the_same_outputs_alone_as_among_others(kernels: KernelLibrary, columns: int) -> None:
    weight, x = _matrix(WeightFormat.BF16, 83, columns), _matrix(WeightFormat.BF16, 40, columns, seed=1)
    layer = _layer(WeightFormat.BF16, kernels, weight)
    most = 8 if kernels.level == "amx" else 40  # beyond, tiles add up in another order there
    together = layer(x[:most], out_dtype=torch.float32)
    for count in (1, 2, 3, 5, 8, 9, 20):
        for first in range(0, most - count + 1, 4):
            rows = slice(first, first + count)
            assert torch.equal(layer(x[rows], out_dtype=torch.float32), together[rows]), (first, count)


@each_format
@pytest.mark.parametrize("rows", [1, 40])
def test_segments_biases_and_residual(kernels: KernelLibrary, fmt: WeightFormat, rows: int) -> None:
    weights = [_matrix(fmt, size, 96, seed=size) for size in (70, 16, 45)]
    biases = [torch.arange(70).bfloat16(), None, torch.ones(45)]
    x, residual = _matrix(fmt, rows, 150)[:, 20:116], torch.randn(rows, 131)
    products = [x.double() @ weight.double().T for weight in weights]
    want = torch.cat([products[0] + biases[0].double(), products[1], products[2] + 1], dim=1) + residual
    _layer(fmt, kernels, *weights, biases=biases)(x, residual=residual, out=residual)
    torch.testing.assert_close(residual.double(), want, atol=1e-4, rtol=1e-5)


@each_format
@pytest.mark.parametrize("rows", [1, 30])
@pytest.mark.parametrize("kind", [InputKind.RMS_NORM, InputKind.SILU_GATED])
def test_input_rows_are_prepared_and_rounded(
    kernels: KernelLibrary, fmt: WeightFormat, kind: InputKind, rows: int
) -> None:
    weight, scale = _matrix(fmt, 50, 96), torch.rand(96)
    x = _matrix(fmt, rows, 192)
    if kind == InputKind.RMS_NORM:
        x = x[:, :96]
        prepared = F.rms_norm(x.float(), (96,), scale, 1e-5)
    else:
        prepared = F.silu(x[:, :96].float()) * x[:, 96:]
    got = _layer(fmt, kernels, weight)(x, prepare=RowInput(kind, scale, eps=1e-5), out_dtype=torch.float32)
    want = prepared.to(DENSE_DTYPES[fmt]).double() @ weight.double().T
    # the last fp32 bit of a norm may round to the neighboring bf16: 2^-8 of one of 96 terms
    tolerance = 2e-2 if fmt is WeightFormat.BF16 else 1e-4
    torch.testing.assert_close(got.double(), want, atol=tolerance, rtol=1e-3)


def test_fp32_weights_multiply_bf16_rows(kernels: KernelLibrary) -> None:
    weight, x = _matrix(WeightFormat.F32, 40, 64), _matrix(WeightFormat.BF16, 20, 64, seed=1)
    got = _layer(WeightFormat.F32, kernels, weight)(x, out_dtype=torch.float32)
    torch.testing.assert_close(got.double(), x.double() @ weight.double().T, atol=1e-4, rtol=1e-5)


@each_format
def test_gathered_rows_are_the_matrix_rows(kernels: KernelLibrary, fmt: WeightFormat) -> None:
    weight = _matrix(fmt, 37, 48)
    packed = pack_weight(fmt, weight, 37, 48, library=kernels)
    ids = torch.tensor([36, 0, 15, 16, 16])
    for dtype in DENSE_DTYPES.values():
        assert torch.equal(gather_rows(packed, ids, dtype, library=kernels), weight[ids].to(dtype))


def test_matrices_of_one_call_have_one_type(kernels: KernelLibrary) -> None:
    packed = [pack_weight(fmt, _matrix(fmt, 16, 32), 16, 32, library=kernels) for fmt in FORMATS]
    assert PackedLinear(packed, library=kernels).single_call is None
    assert PackedLinear(packed[:1] * 2, library=kernels).single_call is not None
