"""The C++ kernel of one matrix a head against torch."""

import pytest
import torch

from models.kernels.cpu.head_linear import multiply_heads, pack_heads, supports_heads
from models.kernels.cpu.library import KernelLibrary


@pytest.mark.parametrize(("heads", "inputs", "outputs"), [(3, 128, 512), (5, 512, 128), (1, 16, 16), (2, 48, 112)])
@pytest.mark.parametrize("rows", [1, 2, 7, 100])
def test_heads_equal_their_products(kernels: KernelLibrary, heads: int, inputs: int, outputs: int, rows: int) -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(heads, outputs, inputs, generator=generator).bfloat16()
    wide = torch.randn(rows, heads, inputs + 64, generator=generator).bfloat16()
    target = torch.full((rows, heads, outputs + 32), 7.0).bfloat16()
    x, out = wide[..., 64:], target[..., 32:]  # as a head's part behind another

    multiply_heads(pack_heads(weight, library=kernels), x, out, library=kernels)

    expected = torch.einsum("hoi,thi->tho", weight.double(), x.double())
    torch.testing.assert_close(out.double(), expected, rtol=2**-8, atol=2**-6)
    assert (target[..., :32] == 7.0).all()


def test_unsupported_shapes_are_told_apart() -> None:
    assert supports_heads(32, 48)
    assert not supports_heads(24, 32)
    assert not supports_heads(32, 20)
