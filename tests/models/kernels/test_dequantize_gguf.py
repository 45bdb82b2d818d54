"""GGUF blocks dequantized by the kernel against the gguf package."""

import pytest
import torch

from models.kernels.cpu.library import KernelLibrary
from models.kernels.cpu.packed_weight import dequantize_natively
from models.kernels.formats import NotFiniteError, WeightFormat
from tests.models.kernels.test_quantized_linear import FORMATS, halves_at, random_blocks, whole_blocks


@pytest.mark.parametrize("fmt", FORMATS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dequantized_rows_are_exactly_those_of_gguf(
    kernels: KernelLibrary, fmt: WeightFormat, dtype: torch.dtype
) -> None:
    columns = whole_blocks(fmt, 96)
    raw, dense = random_blocks(fmt, 21, columns)

    got = dequantize_natively(fmt, raw, columns, dtype, library=kernels)

    assert got is not None
    assert torch.equal(got, dense.to(dtype))


@pytest.mark.parametrize("fmt", FORMATS)
def test_a_scale_that_is_not_finite_is_told(kernels: KernelLibrary, fmt: WeightFormat) -> None:
    columns = whole_blocks(fmt, 96)
    raw, _ = random_blocks(fmt, 21, columns)
    at = halves_at(fmt)[-1]
    raw[20, at : at + 2] = torch.tensor([float("inf")], dtype=torch.float16).view(torch.uint8)

    with pytest.raises(NotFiniteError):
        dequantize_natively(fmt, raw, columns, torch.float32, library=kernels)


def test_half_precision_is_left_to_torch(kernels: KernelLibrary) -> None:
    raw = torch.zeros(2, 18, dtype=torch.uint8)
    assert dequantize_natively(WeightFormat.Q4_0, raw, 32, torch.float16, library=kernels) is None
