"""The native quantizer against the one in torch."""

import pytest
import torch

from models.kernels.cpu.library import KernelLibrary
from models.quant import round_to_nearest
from models.quant.dequantize import dequantize
from models.quant.scaled_weight import quantize_natively
from models.quant.tensor import Encoding
from tests.helpers.random_quantized import relative_error


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("encoding", [Encoding.INT4, Encoding.NF4])
@pytest.mark.parametrize(("rows", "columns", "group_size"), [(1, 16, 32), (37, 352, 128), (64, 576, 32), (3, 4864, 64)])
def test_native_codes_and_scales_are_those_of_torch(
    kernels: KernelLibrary, dtype: torch.dtype, encoding: Encoding, rows: int, columns: int, group_size: int
) -> None:
    weight = torch.randn(rows, columns, generator=torch.Generator().manual_seed(0)) * 0.02
    weight[0, :8] = 0
    weight[-1, -8:] = weight[-1, :8] * 1e-25 + 1e-25  # squares of which vanish
    weight = weight.to(dtype)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(round_to_nearest, "quantize_natively", lambda *_: None)
        expected = round_to_nearest.quantize_matrix(weight, encoding, group_size)

    got = quantize_natively(weight, encoding, expected.group_size, library=kernels)

    assert got is not None
    # Sums are taken in another order, so that of two clippings of nearly the same error either may be chosen.
    are_near = torch.isclose(got.scales.float(), expected.scales.float(), rtol=8e-3)  # bf16's last bit
    assert are_near.float().mean() > 0.97
    assert (got.codes != expected.codes).float().mean() < 2e-2
    dense = [dequantize(each, torch.float32) for each in (got, expected)]
    errors = [relative_error(each, weight.float()) for each in dense]
    assert errors[0] == pytest.approx(errors[1], rel=1e-2)


@pytest.mark.parametrize("encoding", [Encoding.INT4, Encoding.NF4])
@pytest.mark.parametrize(("rows", "columns", "group_size"), [(1, 16, 16), (5, 352, 128), (7, 96, 32)])
def test_a_group_becomes_what_it_becomes_alone(
    kernels: KernelLibrary, encoding: Encoding, rows: int, columns: int, group_size: int
) -> None:
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(rows, columns, generator=generator) * torch.logspace(-38, 2, columns)
    weight[0, :group_size] = weight[-1, -16:] = 0
    weight[rows // 2] = -weight[rows // 2].abs()

    whole = quantize_natively(weight, encoding, group_size, library=kernels)

    assert whole is not None
    for row in range(rows):
        for group, first in enumerate(range(0, columns, group_size)):
            alone = quantize_natively(
                weight[row : row + 1, first : first + group_size], encoding, group_size, library=kernels
            )
            assert alone is not None
            codes = whole.codes[row, first // 2 : (first + group_size) // 2]
            assert torch.equal(codes, alone.codes[0]), (row, group)
            assert torch.equal(whole.scales[row, group : group + 1], alone.scales[0]), (row, group)


def test_what_the_kernel_does_not_take_is_left_to_torch(kernels: KernelLibrary) -> None:
    assert quantize_natively(torch.zeros(2, 40), Encoding.INT4, 32, library=kernels) is None
    assert quantize_natively(torch.zeros(2, 64), Encoding.INT8, 32, library=kernels) is None
    assert quantize_natively(torch.zeros(2, 64, dtype=torch.float64), Encoding.INT4, 32, library=kernels) is None
