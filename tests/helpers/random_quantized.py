"""Random quantized matrices of every kind, and the products that kernels and torch must agree on."""

import torch

from models.quant.nibbles import pack_crumbs, pack_nibbles
from models.quant.tensor import ActivationQuantization, Encoding, QuantKind, QuantTensor, codes_per_byte


def random_quantized(
    kind: QuantKind,
    rows: int,
    columns: int,
    *,
    scale_dtype: torch.dtype = torch.float16,
    is_permuted: bool = False,
    seed: int = 0,
) -> QuantTensor:
    """Every code is used; scales differ by a factor of 4 and a few are negative.

    E8M0 scales are powers of two, and E4M3 scales positive.
    """
    generator = torch.Generator().manual_seed(seed)
    bytes_a_row = columns // codes_per_byte(kind.encoding)
    codes = torch.randint(0, 256, (rows, bytes_a_row), generator=generator).to(torch.uint8)
    if kind.encoding is Encoding.INT8:
        codes = codes.view(torch.int8)
    elif kind.encoding is Encoding.FP8_E4M3:
        codes = torch.where(codes & 0x7F == 0x7F, 1, codes).view(torch.float8_e4m3fn)  # no NaN
    shape = (-(-rows // kind.row_group), -(-columns // kind.group_size))
    if scale_dtype == torch.uint8:
        scales = torch.randint(118, 124, shape, generator=generator).to(torch.uint8)
    elif scale_dtype == torch.float8_e4m3fn:
        scales = (torch.rand(shape, generator=generator) * 300 + 100).to(scale_dtype)
        scales.view(torch.uint8).view(-1)[::7] = 3  # subnormal
    else:
        scales = (torch.rand(shape, generator=generator) * 0.03 + 0.01).to(scale_dtype)
        scales.view(-1)[::7] *= -1
    zeros = None
    if kind.has_zeros:
        low, high, dtype = (0, 16, torch.uint8) if kind.encoding is Encoding.INT4 else (-20, 20, torch.int8)
        zeros = torch.randint(low, high, shape, generator=generator).to(dtype)
    permutation = torch.randperm(columns, generator=generator) if is_permuted else None
    input_scale = 0.02 if kind.activation is ActivationQuantization.STATIC else None
    return QuantTensor(
        kind.encoding,
        codes,
        scales,
        zeros,
        kind.group_size,
        kind.row_group,
        permutation,
        kind.activation,
        input_scale,
        1.3e-4 if scale_dtype == torch.float8_e4m3fn else 1.0,
    )


def every_code(encoding: Encoding) -> QuantTensor:
    """One row with all codes of an encoding of 4 or 2 bits, scaled by 1."""
    if encoding is Encoding.TERNARY:
        every = pack_crumbs(torch.arange(32, dtype=torch.uint8)[None] % 4)
        return QuantTensor(encoding, every, torch.ones(1, 1), None, group_size=32)
    codes = pack_nibbles(torch.arange(16, dtype=torch.uint8)[None].repeat(1, 2))
    return QuantTensor(encoding, codes, torch.ones(1, 1), None, group_size=32)


def rounded_to_int8(x: torch.Tensor) -> torch.Tensor:
    """x rounded as native kernels do where weights are integers: to int8 with a scale per row and 32 columns; fp64."""
    groups = x.float().unflatten(1, (-1, 32))
    largest = groups.abs().amax(-1, keepdim=True)
    inverse = torch.tensor(127.0) / largest  # 127 / tensor would be its reciprocal times 127, one rounding more
    codes = (groups * torch.where(largest > 0, inverse, 0.0)).round()
    return (codes.double() * (largest / 127).double()).flatten(1)


def relative_error(got: torch.Tensor, wanted: torch.Tensor) -> float:
    """Frobenius norm of the difference over that of `wanted`."""
    return ((got.double() - wanted.double()).norm() / wanted.double().norm()).item()
