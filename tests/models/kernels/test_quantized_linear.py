"""Packed linear layers against gguf's dequantization and a float64 product with the same activation quantization."""

import gguf
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from models.kernels.cpu.library import KernelLibrary
from models.kernels.cpu.linear import PackedLinear
from models.kernels.cpu.packed_weight import PackedWeight, gather_rows, pack_weight
from models.kernels.formats import DENSE_DTYPES, NotFiniteError, WeightFormat
from models.kernels.row_input import InputKind, RowInput
from models.layers.activation import xielu

AMX_ROWS = 32  # kAmxRows of quantized_linear.cpp
FORMATS = [fmt for fmt in WeightFormat if fmt not in DENSE_DTYPES]


def whole_blocks(fmt: WeightFormat, columns: int) -> int:
    """`columns`, or the next multiple of 256 for the formats with super-blocks."""
    return -(-columns // 256) * 256 if fmt.name.endswith("_K") else columns


def halves_at(fmt: WeightFormat) -> list[int]:
    """Where the fp16 numbers of a block stand."""
    behind = {WeightFormat.Q2_K: [80, 82], WeightFormat.Q3_K: [108], WeightFormat.Q6_K: [208]}
    return behind.get(fmt, [0, 2] if fmt.name[2:] in ("_1", "_K") else [0])


def random_blocks(fmt: WeightFormat, rows: int, columns: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Random GGUF blocks (every code and scale bit used), and what gguf makes of them."""
    block, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[fmt.name]]
    rng = np.random.default_rng(seed)
    raw = rng.integers(0, 256, (rows, columns // block, size), dtype=np.uint8)
    for at in halves_at(fmt):  # the fp16 fields: moderate numbers, a few negative, zero and subnormal
        values = rng.uniform(-0.02, 0.06, raw.shape[:2]).astype(np.float16)
        values.flat[3 :: 7 * 13] = 0
        values.flat[5 :: 7 * 11] = 3e-7
        raw[..., at : at + 2] = values[..., None].view(np.uint8)
    raw = raw.reshape(rows, -1)
    dense = gguf.quants.dequantize(raw, gguf.GGMLQuantizationType[fmt.name])
    return torch.from_numpy(raw), torch.from_numpy(dense)


def _random_weight(
    fmt: WeightFormat, rows: int, columns: int, kernels: KernelLibrary, seed: int = 0
) -> tuple[PackedWeight, torch.Tensor]:
    """A packed matrix of random blocks, and what gguf makes of them."""
    raw, dense = random_blocks(fmt, rows, columns, seed)
    return pack_weight(fmt, raw, rows, columns, library=kernels), dense


def _quantized(x: torch.Tensor) -> torch.Tensor:
    """x rounded to int8 with a scale per row and 32 columns, as float64."""
    groups = x.float().unflatten(1, (-1, 32))
    largest = groups.abs().amax(-1, keepdim=True)
    inverse = torch.tensor(127.0) / largest  # 127 / tensor would be its reciprocal times 127, one rounding more
    codes = (groups * torch.where(largest > 0, inverse, 0.0)).round()
    return (codes.double() * (largest / 127).double()).flatten(1)


def _product(kernels: KernelLibrary, x: torch.Tensor, dense: torch.Tensor) -> torch.Tensor:
    """The product as the kernel's path for so many rows rounds its operands, without further rounding."""
    if kernels.level == "amx" and len(x) >= AMX_ROWS:
        return x.bfloat16().double() @ dense.bfloat16().double().T
    return _quantized(x) @ dense.double().T


def _assert_near(got: torch.Tensor, want: torch.Tensor, tolerance: float) -> None:
    """Largest error against the size of the results: single ones may cancel to nearly nothing."""
    assert got.shape == want.shape
    error = (got.double() - want).abs().max() / want.abs().mean()
    assert error < tolerance, f"error {error:.2e} of the mean result"


@pytest.mark.parametrize("fmt", FORMATS)
def test_gathered_rows_are_exactly_gguf_values(kernels: KernelLibrary, fmt: WeightFormat) -> None:
    weight, dense = _random_weight(fmt, 37, whole_blocks(fmt, 96), kernels)
    ids = torch.tensor([36, 0, 15, 16, 16, *range(37)])
    assert torch.equal(gather_rows(weight, ids, torch.float32, library=kernels), dense[ids])
    assert torch.equal(gather_rows(weight, ids, torch.bfloat16, library=kernels), dense[ids].bfloat16())


@pytest.mark.parametrize("first", [0, 16, 5])
@pytest.mark.parametrize("fmt", FORMATS)
def test_gathered_runs_of_rows_are_exactly_gguf_values(kernels: KernelLibrary, fmt: WeightFormat, first: int) -> None:
    weight, dense = _random_weight(fmt, 67, whole_blocks(fmt, 96), kernels)
    ids = torch.arange(first, 67)
    assert torch.equal(gather_rows(weight, ids, torch.float32, library=kernels), dense[first:])
    assert torch.equal(gather_rows(weight, ids, torch.bfloat16, library=kernels), dense[first:].bfloat16())


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("fmt", FORMATS)
def test_scales_that_are_not_finite_are_found(kernels: KernelLibrary, fmt: WeightFormat, number: float) -> None:
    block, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[fmt.name]]
    for at in halves_at(fmt):
        raw = np.zeros((19, 512 // block, size), np.uint8)
        raw[17, -1, at : at + 2] = np.float16([number]).view(np.uint8)
        with pytest.raises(NotFiniteError):
            pack_weight(fmt, torch.from_numpy(raw.reshape(19, -1)), 19, 512, library=kernels)


@pytest.mark.parametrize("fmt", FORMATS)
@pytest.mark.parametrize("rows", [1, 2, 3, 5, 8, 13, 17, 67, 131])
def test_product_equals_dequantized_product_over_row_counts(
    kernels: KernelLibrary, fmt: WeightFormat, rows: int
) -> None:
    columns = whole_blocks(fmt, 576)
    weight, dense = _random_weight(fmt, 83, columns, kernels)
    x = torch.randn(rows, columns, generator=torch.Generator().manual_seed(1))
    want = _product(kernels, x, dense)
    linear = PackedLinear([weight], library=kernels)
    got = linear(x)
    _assert_near(got, want, 1e-4)
    assert torch.equal(linear(x, out_dtype=torch.bfloat16), got.bfloat16())


@pytest.mark.parametrize("fmt", FORMATS)
def test_a_row_s_product_does_not_depend_on_the_rows_beside_it(kernels: KernelLibrary, fmt: WeightFormat) -> None:
    columns = whole_blocks(fmt, 576)
    weight, _ = _random_weight(fmt, 37, columns, kernels)
    rows = 31 if kernels.level == "amx" else 67  # AMX multiplies more rows in bf16
    x = torch.randn(rows, columns, generator=torch.Generator().manual_seed(1))
    linear = PackedLinear([weight], library=kernels)
    together = linear(x)
    for count in (1, 2, 3, 7, 20):
        assert torch.equal(linear(x[:count]), together[:count])


@pytest.mark.parametrize("fmt", [WeightFormat.Q4_0, WeightFormat.Q4_1, WeightFormat.Q8_0])
@pytest.mark.parametrize(("outputs", "columns"), [(1, 32), (16, 64), (33, 96), (200, 896), (48, 4864), (4099, 64)])
@pytest.mark.parametrize("rows", [1, 6, 20])
def test_product_equals_dequantized_product_over_shapes(
    kernels: KernelLibrary, fmt: WeightFormat, outputs: int, columns: int, rows: int
) -> None:
    weight, dense = _random_weight(fmt, outputs, columns, kernels)
    x = torch.randn(rows, columns, generator=torch.Generator().manual_seed(1)).bfloat16()
    x[-1, :31] = 0
    x[:-1, :32] = 0  # groups without a largest element
    _assert_near(PackedLinear([weight], library=kernels)(x, out_dtype=torch.float32), _product(kernels, x, dense), 1e-4)


@pytest.mark.parametrize("rows", [1, 80])
def test_segments_of_different_formats_stand_side_by_side(kernels: KernelLibrary, rows: int) -> None:
    formats, sizes = [WeightFormat.Q4_K, WeightFormat.Q8_0, WeightFormat.Q6_K], [70, 16, 45]
    pairs = [
        _random_weight(fmt, size, 256, kernels, seed=i)
        for i, (fmt, size) in enumerate(zip(formats, sizes, strict=True))
    ]
    biases = [torch.arange(70).bfloat16(), None, torch.ones(45)]
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(rows, 300, generator=generator)[:, 20:276]  # a view with strided rows
    residual = torch.randn(rows, 131, generator=generator)
    want = torch.cat(
        [
            _product(kernels, x, dense) + (0 if bias is None else bias.double())
            for (_, dense), bias in zip(pairs, biases, strict=True)
        ],
        dim=1,
    )
    linear = PackedLinear([weight for weight, _ in pairs], biases, library=kernels)
    _assert_near(linear(x), want, 1e-4)
    summed = linear(x, residual=residual)
    _assert_near(summed, want + residual, 1e-4)
    linear(x, residual=residual, out=residual)
    assert torch.equal(residual, summed)


_ALPHA, _LIMIT = 1.702, 2.0
_XIELU = torch.tensor([0.8, 0.7, 0.5, -1e-6])  # alpha_p, alpha_n, beta, eps
_ACTIVATIONS = {
    InputKind.SILU: F.silu,
    InputKind.GELU: F.gelu,
    InputKind.GELU_TANH: lambda x: F.gelu(x, approximate="tanh"),
    InputKind.GELU_QUICK: lambda x: x * torch.sigmoid(1.702 * x),
    InputKind.RELU: F.relu,
    InputKind.RELU_SQUARED: lambda x: F.relu(x).square(),
    InputKind.TANH: torch.tanh,
    InputKind.SIGMOID: torch.sigmoid,
}


def prepared_rows(kind: InputKind, x: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
    """What the kernels are to make of x, in torch; norms have an epsilon of 1e-5."""
    if kind is InputKind.PLAIN:
        return x
    if kind is InputKind.RMS_NORM:
        return F.rms_norm(x, scale.shape, scale, 1e-5)
    if kind is InputKind.LAYER_NORM:
        return F.layer_norm(x, scale.shape, scale, shift, 1e-5)
    if kind is InputKind.XIELU:
        return xielu(x, _XIELU)
    if kind in _ACTIVATIONS:
        return _ACTIVATIONS[kind](x)
    gate, up = x.chunk(2, dim=1)
    if kind is InputKind.SWIGLU_CLAMPED:
        gate, up = gate.clamp(max=_LIMIT), up.clamp(-_LIMIT, _LIMIT)
        return gate * torch.sigmoid(_ALPHA * gate) * (up + 1)
    if kind is InputKind.SILU_GATED_SCALED:
        return _LIMIT * F.silu(_ALPHA * gate) * up
    return _ACTIVATIONS[InputKind[kind.name.removesuffix("_GATED")]](gate) * up


def row_input(kind: InputKind, scale: torch.Tensor, shift: torch.Tensor) -> RowInput:
    if kind in (InputKind.SWIGLU_CLAMPED, InputKind.SILU_GATED_SCALED):
        return RowInput.with_numbers(kind, _ALPHA, _LIMIT)
    if kind is InputKind.XIELU:
        return RowInput(kind, _XIELU)
    is_norm = kind in (InputKind.RMS_NORM, InputKind.LAYER_NORM)
    return RowInput(kind, scale if is_norm else None, shift if kind is InputKind.LAYER_NORM else None, 1e-5)


@pytest.mark.parametrize("rows", [1, 70])
@pytest.mark.parametrize("kind", list(InputKind))
def test_input_rows_are_prepared(kernels: KernelLibrary, kind: InputKind, rows: int) -> None:
    columns = 576
    weight, dense = _random_weight(WeightFormat.Q8_0, 50, columns, kernels)
    generator = torch.Generator().manual_seed(3)
    scale, shift = torch.rand(2, columns, generator=generator)
    prepare = row_input(kind, scale, shift)
    x = torch.randn(rows, columns * (2 if prepare.is_gated else 1), generator=generator) * 3 + 1

    got = PackedLinear([weight], library=kernels)(x, prepare=prepare)

    # the last bit of an activation function may move a code by one: a 127th of a group's largest value
    _assert_near(got, _product(kernels, prepared_rows(kind, x, scale, shift), dense), 1e-2)
