"""Packed bf16 linear layers against a float64 product of the same bf16 numbers."""

import pytest
import torch
import torch.nn.functional as F

from models.kernels.cpu.library import KernelLibrary
from models.kernels.linear import PackedLinear
from models.kernels.packed_weight import WeightFormat, gather_rows, pack_weight
from models.kernels.row_input import InputKind, RowInput


def _matrix(rows: int, columns: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)).bfloat16()


def _layer(
    kernels: KernelLibrary, *matrices: torch.Tensor, biases: list[torch.Tensor | None] | None = None
) -> PackedLinear:
    packed = [pack_weight(WeightFormat.BF16, matrix, *matrix.shape, library=kernels) for matrix in matrices]
    return PackedLinear(packed, biases, library=kernels)


@pytest.mark.parametrize("rows", [1, 2, 3, 4, 5, 7, 8, 9, 13, 65, 131])
@pytest.mark.parametrize(("outputs", "columns"), [(1, 16), (83, 576), (33, 80), (200, 4864), (4099, 64)])
def test_product_equals_float64_product(kernels: KernelLibrary, outputs: int, columns: int, rows: int) -> None:
    weight, x = _matrix(outputs, columns), _matrix(rows, columns, seed=1)
    layer = _layer(kernels, weight)
    want = x.double() @ weight.double().T
    got = layer(x, out_dtype=torch.float32)
    torch.testing.assert_close(got.double(), want, atol=1e-5 * columns**0.5, rtol=1e-5)
    assert torch.equal(layer(x), got.bfloat16())
    assert torch.equal(layer(x.float()), got)


@pytest.mark.parametrize("rows", [1, 40])
def test_segments_biases_and_residual(kernels: KernelLibrary, rows: int) -> None:
    weights = [_matrix(size, 96, seed=size) for size in (70, 16, 45)]
    biases = [torch.arange(70).bfloat16(), None, torch.ones(45)]
    x, residual = _matrix(rows, 150)[:, 20:116], torch.randn(rows, 131)
    products = [x.double() @ weight.double().T for weight in weights]
    want = torch.cat([products[0] + biases[0].double(), products[1], products[2] + 1], dim=1) + residual
    _layer(kernels, *weights, biases=biases)(x, residual=residual, out=residual)
    torch.testing.assert_close(residual.double(), want, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("rows", [1, 30])
@pytest.mark.parametrize("kind", [InputKind.RMS_NORM, InputKind.SILU_GATED])
def test_input_rows_are_prepared_and_rounded(kernels: KernelLibrary, kind: InputKind, rows: int) -> None:
    weight, scale = _matrix(50, 96), torch.rand(96)
    x = _matrix(rows, 192)
    if kind == InputKind.RMS_NORM:
        x = x[:, :96]
        prepared = F.rms_norm(x.float(), (96,), scale, 1e-5)
    else:
        prepared = F.silu(x[:, :96].float()) * x[:, 96:]
    got = _layer(kernels, weight)(x, prepare=RowInput(kind, scale, eps=1e-5), out_dtype=torch.float32)
    want = prepared.bfloat16().double() @ weight.double().T
    # the last fp32 bit of a norm may round to the neighboring bf16: 2^-8 of one of 96 terms
    torch.testing.assert_close(got.double(), want, atol=2e-2, rtol=1e-3)


def test_gathered_rows_are_the_matrix_rows(kernels: KernelLibrary) -> None:
    weight = _matrix(37, 48)
    packed = pack_weight(WeightFormat.BF16, weight, 37, 48, library=kernels)
    ids = torch.tensor([36, 0, 15, 16, 16])
    assert torch.equal(gather_rows(packed, ids, torch.bfloat16, library=kernels), weight[ids])
    assert torch.equal(gather_rows(packed, ids, torch.float32, library=kernels), weight[ids].float())
