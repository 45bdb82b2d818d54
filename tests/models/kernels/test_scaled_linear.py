"""Scaled codes on the native kernels: against dequantize-then-matmul in float64 with the same rounding of the rows."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from models.kernels.cpu.library import KernelLibrary
from models.kernels.cpu.linear import PackedLinear
from models.kernels.cpu.packed_weight import pack_weight
from models.kernels.formats import WeightFormat
from models.kernels.row_input import InputKind, RowInput
from models.quant.activations import round_rows
from models.quant.dequantize import dequantize
from models.quant.scaled_weight import ScaledWeight, pack_quantized, scaled_refusal
from models.quant.tensor import ActivationQuantization, Encoding, QuantKind, QuantTensor
from tests.helpers.random_quantized import every_code, random_quantized, relative_error, rounded_to_int8

AMX_ROWS = 32  # kAmxRows of scaled_linear.cpp
PER_TOKEN, STATIC = ActivationQuantization.DYNAMIC_PER_TOKEN, ActivationQuantization.STATIC
PER_GROUP = ActivationQuantization.DYNAMIC_PER_GROUP
COLUMNS = 352  # eleven steps: neither 64, 128 nor 256 divides it
HALF, BF16, FLOAT = torch.float16, torch.bfloat16, torch.float32
KINDS = {
    "int4 g32": (QuantKind(Encoding.INT4, 32), HALF),
    "int4 g64, zeros": (QuantKind(Encoding.INT4, 64, has_zeros=True), HALF),
    "int4 g128, zeros": (QuantKind(Encoding.INT4, 128, has_zeros=True), BF16),
    "int4 a row": (QuantKind(Encoding.INT4, COLUMNS), FLOAT),
    "int8 a row": (QuantKind(Encoding.INT8, COLUMNS), BF16),
    "int8 g128, zeros": (QuantKind(Encoding.INT8, 128, has_zeros=True), FLOAT),
    "int8 w8a8": (QuantKind(Encoding.INT8, COLUMNS, activation=PER_TOKEN), FLOAT),
    "int8 w8a8 static": (QuantKind(Encoding.INT8, COLUMNS, activation=STATIC), FLOAT),
    "fp8 a tensor": (QuantKind(Encoding.FP8_E4M3, COLUMNS, row_group=1000), FLOAT),
    "fp8 blocks": (QuantKind(Encoding.FP8_E4M3, 128, row_group=128), FLOAT),
    "fp8 blocks w8a8": (QuantKind(Encoding.FP8_E4M3, 128, row_group=128, activation=PER_GROUP), FLOAT),
    "fp8 w8a8": (QuantKind(Encoding.FP8_E4M3, COLUMNS, activation=PER_TOKEN), BF16),
    "fp8 w8a8 static": (QuantKind(Encoding.FP8_E4M3, COLUMNS, row_group=1000, activation=STATIC), FLOAT),
    "nf4": (QuantKind(Encoding.NF4, 64), FLOAT),
    "fp4": (QuantKind(Encoding.FP4, 64), FLOAT),
    "mxfp4": (QuantKind(Encoding.E2M1, 32), torch.uint8),
    "nvfp4": (QuantKind(Encoding.E2M1, 16), torch.float8_e4m3fn),
    "e2m1 g16": (QuantKind(Encoding.E2M1, 16), HALF),
    "iq2 g16": (QuantKind(Encoding.IQ2, 16), FLOAT),
    "iq2 g32": (QuantKind(Encoding.IQ2, 32), FLOAT),
    "ternary g256": (QuantKind(Encoding.TERNARY, 256), HALF),
    "ternary a8": (QuantKind(Encoding.TERNARY, COLUMNS, row_group=1000, activation=PER_TOKEN), BF16),
    "iq4_nl": (QuantKind(Encoding.IQ4_NL, 32), HALF),
}
_INTEGERS = (Encoding.INT4, Encoding.INT8, Encoding.E2M1, Encoding.IQ4_NL, Encoding.IQ2, Encoding.TERNARY)


def _matrix(name: str, rows: int, *, is_permuted: bool = False, seed: int = 0) -> QuantTensor:
    kind, scale_dtype = KINDS[name]
    assert scaled_refusal(kind, COLUMNS) is None
    return random_quantized(kind, rows, COLUMNS, scale_dtype=scale_dtype, is_permuted=is_permuted, seed=seed)


def _product(kernels: KernelLibrary, x: torch.Tensor, quantized: QuantTensor) -> torch.Tensor:
    """x @ W^T in float64, with x rounded as the checkpoint asks, or as the kernel does for so many rows."""
    x = x.float()
    rounded = round_rows(x, quantized)
    if quantized.activation is ActivationQuantization.NONE:
        if kernels.level == "amx" and len(x) >= AMX_ROWS:
            rounded = x.bfloat16()
        elif quantized.encoding in _INTEGERS:
            permuted = x if quantized.permutation is None else x[:, quantized.permutation]
            rounded = rounded_to_int8(permuted)
            if quantized.permutation is not None:
                rounded = torch.empty_like(rounded).index_copy_(1, quantized.permutation, rounded)
    return rounded.double() @ dequantize(quantized, torch.float64).T


def _input(rows: int, columns: int = COLUMNS) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", KINDS)
def test_looked_up_rows_are_exactly_the_reference(kernels: KernelLibrary, name: str) -> None:
    quantized = _matrix(name, 37)
    ids = torch.tensor([36, 0, 15, 16, 16, *range(37)])
    weight = pack_quantized(quantized, library=kernels)
    expected = dequantize(quantized, FLOAT)[ids]
    assert torch.equal(weight.look_up(ids, FLOAT, library=kernels), expected)
    assert torch.equal(weight.look_up(ids, BF16, library=kernels), expected.to(BF16))


@pytest.mark.parametrize(
    "encoding",
    [*(Encoding.INT4, Encoding.E2M1, Encoding.IQ4_NL, Encoding.IQ2, Encoding.TERNARY, Encoding.NF4, Encoding.FP4)],
)
def test_every_code_has_its_value(kernels: KernelLibrary, encoding: Encoding) -> None:
    quantized = every_code(encoding)
    weight = pack_quantized(quantized, library=kernels)
    looked_up = weight.look_up(torch.tensor([0]), FLOAT, library=kernels)
    assert torch.equal(looked_up, dequantize(quantized, FLOAT))
    one_hot = torch.eye(32)[:16] * 127  # 127: exact in int8
    assert torch.allclose(PackedLinear([weight], library=kernels)(one_hot)[:, 0], looked_up[0, :16] * 127, rtol=1e-6)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("rows", [1, 2, 3, 5, 7, 13, 64, 131])
def test_product_equals_dequantized_product(kernels: KernelLibrary, name: str, rows: int) -> None:
    quantized = _matrix(name, 83)
    x = _input(rows)
    x[-1, :31] = 0
    x[:-1, :32] = 0  # groups without a largest element
    got = PackedLinear([pack_quantized(quantized, library=kernels)], library=kernels)(x)
    is_dequantized_to_bf16 = kernels.level == "amx" and rows >= AMX_ROWS
    assert relative_error(got, _product(kernels, x, quantized)) < (5e-3 if is_dequantized_to_bf16 else 3e-4)


@pytest.mark.parametrize(
    ("encoding", "has_zeros"),
    [
        *((encoding, has_zeros) for encoding in (Encoding.INT4, Encoding.INT8) for has_zeros in (False, True)),
        *((encoding, False) for encoding in (Encoding.TERNARY, Encoding.FP8_E4M3, Encoding.NF4, Encoding.FP4)),
    ],
)
@pytest.mark.parametrize("group_size", [32, 96, 128, 1120])
def test_a_row_s_product_does_not_depend_on_the_rows_beside_it(
    kernels: KernelLibrary, encoding: Encoding, has_zeros: bool, group_size: int
) -> None:
    """Kernels for few rows and for many take the sums of long groups, and of groups that a panel's step cuts, alike."""
    _check_rows_are_independent(
        kernels, random_quantized(QuantKind(encoding, group_size, has_zeros=has_zeros), 37, 1120)
    )


@pytest.mark.parametrize(
    ("encoding", "scale_dtype"), [(Encoding.E2M1, torch.float8_e4m3fn), (Encoding.E2M1, FLOAT), (Encoding.IQ2, FLOAT)]
)
def test_rows_are_independent_where_16_columns_have_a_scale(
    kernels: KernelLibrary, encoding: Encoding, scale_dtype: torch.dtype
) -> None:
    matrix = random_quantized(QuantKind(encoding, 16), 37, 1120, scale_dtype=scale_dtype)
    _check_rows_are_independent(kernels, matrix)


def _check_rows_are_independent(kernels: KernelLibrary, quantized: QuantTensor) -> None:
    linear = PackedLinear([pack_quantized(quantized, library=kernels)], library=kernels)
    x = _input(AMX_ROWS - 1 if kernels.level == "amx" else 131, 1120)  # AMX multiplies many rows in bf16
    together = linear(x)
    for count in (1, 2, 3, 7, 20):
        assert torch.equal(linear(x[:count]), together[:count])


@pytest.mark.parametrize(("outputs", "columns"), [(1, 32), (16, 48), (33, 96), (130, 896), (4099, 64)])
@pytest.mark.parametrize("encoding", [Encoding.INT4, Encoding.FP8_E4M3, Encoding.NF4])
def test_product_over_shapes(kernels: KernelLibrary, encoding: Encoding, outputs: int, columns: int) -> None:
    quantized = random_quantized(QuantKind(encoding, 64), outputs, columns, seed=2)
    weight = pack_quantized(quantized, library=kernels)
    x = _input(3, columns).bfloat16()
    if columns % 32:  # the reference of rounded rows wants whole steps
        x = (x.float() / x.float().abs().amax() * 127).round().bfloat16()
        x[:, ::32] = 127
        assert (
            relative_error(
                PackedLinear([weight], library=kernels)(x, out_dtype=FLOAT),
                x.double() @ dequantize(quantized, torch.float64).T,
            )
            < 3e-4
        )
        return
    got = PackedLinear([weight], library=kernels)(x, out_dtype=FLOAT)
    assert relative_error(got, _product(kernels, x, quantized)) < 3e-4


@pytest.mark.parametrize("columns", [16, 48, 80, 144])
def test_pairs_of_scales_serve_columns_that_are_no_whole_steps(kernels: KernelLibrary, columns: int) -> None:
    quantized = random_quantized(QuantKind(Encoding.E2M1, 16), 33, columns, scale_dtype=torch.float8_e4m3fn)
    weight, ids = pack_quantized(quantized, library=kernels), torch.arange(33)
    x = torch.full((3, columns), 127.0)
    x[1, -16:] = -127

    assert torch.equal(weight.look_up(ids, FLOAT, library=kernels), dequantize(quantized, FLOAT))
    expected = x.double() @ dequantize(quantized, torch.float64).T
    assert relative_error(PackedLinear([weight], library=kernels)(x), expected) < 3e-4


@pytest.mark.parametrize("columns", [48, 80])
@pytest.mark.parametrize("activation", [PER_TOKEN, PER_GROUP])
def test_a_scale_a_row_serves_columns_that_are_no_whole_steps(
    kernels: KernelLibrary, columns: int, activation: ActivationQuantization
) -> None:
    quantized = random_quantized(QuantKind(Encoding.FP8_E4M3, columns, activation=activation), 33, columns)
    weight, ids, x = pack_quantized(quantized, library=kernels), torch.arange(33), _input(3, columns)

    assert torch.equal(weight.look_up(ids, FLOAT, library=kernels), dequantize(quantized, FLOAT))
    assert relative_error(PackedLinear([weight], library=kernels)(x), _product(kernels, x, quantized)) < 3e-4


@pytest.mark.parametrize("rows", [1, 80])
@pytest.mark.parametrize("name", ["int4 g128, zeros", "int8 w8a8", "fp8 w8a8"])
def test_permuted_columns_meet_their_inputs(kernels: KernelLibrary, name: str, rows: int) -> None:
    quantized = _matrix(name, 20, is_permuted=True)
    x = _input(rows)
    got = PackedLinear([pack_quantized(quantized, library=kernels)], library=kernels)(x)
    assert relative_error(got, _product(kernels, x, quantized)) < 5e-3


@pytest.mark.parametrize("rows", [1, 80])
def test_matrices_of_all_kinds_stand_side_by_side(kernels: KernelLibrary, rows: int) -> None:
    names = ["int4 g32", "int8 a row", "int8 w8a8", "fp8 blocks", "nf4", "fp8 w8a8"]
    sizes = [70, 16, 45, 33, 17, 20]
    matrices = [_matrix(name, size, seed=i) for i, (name, size) in enumerate(zip(names, sizes, strict=True))]
    dense = torch.randn(30, COLUMNS, generator=torch.Generator().manual_seed(5)).bfloat16()
    weights: list[ScaledWeight | object] = [pack_quantized(matrix, library=kernels) for matrix in matrices]
    weights.append(pack_weight(WeightFormat.BF16, dense, 30, COLUMNS, library=kernels))
    biases = [torch.randn(size, generator=torch.Generator().manual_seed(6)) for size in [*sizes, 30]]
    generator = torch.Generator().manual_seed(7)
    x = torch.randn(rows, COLUMNS + 40, generator=generator)[:, 20 : 20 + COLUMNS]  # a view with strided rows
    residual = torch.randn(rows, sum(sizes) + 30, generator=generator)
    products = [_product(kernels, x, matrix) for matrix in matrices]
    products.append(x.bfloat16().double() @ dense.double().T)
    expected = torch.cat([p + bias for p, bias in zip(products, biases, strict=True)], dim=1) + residual

    linear = PackedLinear(weights, biases, library=kernels)
    summed = linear(x, residual=residual)

    assert relative_error(summed, expected) < 5e-3
    linear(x, residual=residual, out=residual)
    assert torch.equal(residual, summed)


@pytest.mark.parametrize("rows", [1, 80])
@pytest.mark.parametrize("name", ["int4 g32", "fp8 w8a8"])
def test_input_rows_are_prepared(kernels: KernelLibrary, name: str, rows: int) -> None:
    quantized = _matrix(name, 50)
    scale = torch.rand(COLUMNS, generator=torch.Generator().manual_seed(3))
    linear = PackedLinear([pack_quantized(quantized, library=kernels)], library=kernels)
    x = _input(rows, 2 * COLUMNS)
    normed = F.rms_norm(x[:, :COLUMNS], (COLUMNS,), scale, 1e-5)
    got = linear(x[:, :COLUMNS], prepare=RowInput(InputKind.RMS_NORM, scale, eps=1e-5))
    assert relative_error(got, _product(kernels, normed, quantized)) < 1e-2
    gated = F.silu(x[:, :COLUMNS]) * x[:, COLUMNS:]
    got = linear(x, prepare=RowInput(InputKind.SILU_GATED))
    assert relative_error(got, _product(kernels, gated, quantized)) < 1e-2


@pytest.mark.parametrize("name", KINDS)
def test_packed_bytes_are_near_the_checkpoint_s(kernels: KernelLibrary, name: str) -> None:
    quantized = _matrix(name, 256)
    stored = (
        quantized.codes.nbytes
        + quantized.scales.nbytes
        + (quantized.zeros.nbytes / 2 if quantized.zeros is not None else 0)
    )
    packed = pack_quantized(quantized, library=kernels).data.nbytes
    assert packed < 1.15 * stored


@pytest.mark.parametrize(
    ("kind", "columns", "reason"),
    [
        (QuantKind(Encoding.INT4, 32), 40, "40 columns are not a multiple of 16"),
        (QuantKind(Encoding.INT4, 16), 64, "groups of 16 columns are not a multiple of 32"),
        (QuantKind(Encoding.NF4, 64, activation=PER_TOKEN), 64, "rows are not rounded to NF4"),
        (QuantKind(Encoding.INT8, 64, activation=PER_GROUP), 64, "rows are not rounded to INT8 by groups"),
    ],
)
def test_what_has_no_kernel_is_said(kind: QuantKind, columns: int, reason: str) -> None:
    assert scaled_refusal(kind, columns) == reason


@pytest.mark.parametrize("exponent", [-127, -126, 0, 100])
def test_every_power_of_two_is_a_scale(kernels: KernelLibrary, exponent: int) -> None:
    matrix = every_code(Encoding.E2M1)
    scaled = replace(matrix, scales=torch.tensor([[exponent + 127]], dtype=torch.uint8))
    expected = dequantize(matrix, FLOAT) * 2.0**exponent
    looked_up = pack_quantized(scaled, library=kernels).look_up(torch.tensor([0]), FLOAT, library=kernels)
    assert torch.equal(looked_up, expected)
    assert torch.equal(dequantize(scaled, FLOAT), expected)
