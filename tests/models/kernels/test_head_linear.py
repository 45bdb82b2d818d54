"""One matrix a head, in each column of the table of operations."""

import pytest
import torch

from models.kernels.cpu.library import KernelLibrary
from models.kernels.cpu.linear import multiply_heads, pack_heads
from models.kernels.cpu.operations import CpuOperations
from tests.models.kernels.conftest import Column


@pytest.mark.parametrize(("heads", "inputs", "outputs"), [(3, 128, 512), (5, 512, 128), (1, 16, 16), (2, 48, 112)])
@pytest.mark.parametrize("rows", [1, 2, 7, 100])
def test_heads_equal_their_products(column: Column, heads: int, inputs: int, outputs: int, rows: int) -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(heads, outputs, inputs, generator=generator).bfloat16()
    wide = torch.randn(rows, heads, inputs + 64, generator=generator).bfloat16()
    target = torch.full((rows, heads, outputs + 32), 7.0).bfloat16()
    x, out = wide[..., 64:], target[..., 32:]  # as a head's part behind another
    product = column(torch.bfloat16).head_product(inputs, outputs)

    packed = product.pack(weight, None)
    product.multiply(packed, x, out)

    expected = torch.einsum("hoi,thi->tho", weight.double(), x.double())
    torch.testing.assert_close(out.double(), expected, rtol=2**-8, atol=2**-6)
    assert (target[..., :32] == 7.0).all()
    assert torch.equal(product.unpack(packed), weight)


def test_torch_multiplies_by_sizes_and_dtypes_without_a_kernel(kernels: KernelLibrary) -> None:
    def is_native(inputs: int, outputs: int, dtype: torch.dtype = torch.bfloat16) -> bool:
        product = CpuOperations(kernels, dtype).head_product(inputs, outputs)
        return getattr(product.multiply, "func", None) is multiply_heads and product.pack.func is pack_heads

    assert is_native(32, 48)
    assert not is_native(24, 32)
    assert not is_native(32, 20)
    assert not is_native(32, 48, torch.float32)
