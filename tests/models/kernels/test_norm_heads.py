"""The C++ kernel that norms heads in place, against torch."""

import pytest
import torch
from torch import nn

from models.architecture.attention import QKNormScope, QKNormSpec
from models.architecture.norm import NormKind, NormSpec
from models.attention.cpu import CpuAttention
from models.kernels.cpu.library import KernelLibrary
from models.kernels.row_input import Prologue
from models.layers.attention.qk_norm import make_qk_norm
from models.layers.norm import Norm

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2**-7}
RMS, LAYER = NormSpec(NormKind.RMS, 1e-5), NormSpec(NormKind.LAYER, 1e-5, has_bias=True)
NORMS = {
    "rms": lambda: Norm(RMS, 48),
    "without weight": lambda: Norm(NormSpec(NormKind.RMS, 1e-5, has_weight=False), 48),
    "layer": lambda: Norm(LAYER, 48),
    "own weights": lambda: own_weights(NormKind.LAYER),
    "own weights, rms": lambda: own_weights(NormKind.RMS),
}


def own_weights(kind: NormKind) -> nn.Module:
    return make_qk_norm(QKNormSpec(NormSpec(kind, 1e-5), QKNormScope.HEAD_OWN_WEIGHTS), 3, 48)


@pytest.mark.parametrize("name", NORMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [1, 65])
def test_heads_are_normed_in_place(kernels: KernelLibrary, name: str, dtype: torch.dtype, rows: int) -> None:
    generator = torch.Generator().manual_seed(0)
    norm: Prologue = NORMS[name]()
    norm._apply(lambda tensor: torch.randn(tensor.shape, generator=generator))
    fused = torch.randn(rows, 5, 48, generator=generator).to(dtype)
    heads, before = fused[:, 1:4], fused.clone()
    expected = norm(heads.float())

    normed = CpuAttention(kernels).norm_heads(heads, norm)

    assert normed is heads
    torch.testing.assert_close(normed.float(), expected, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])
    assert torch.equal(fused[:, [0, 4]], before[:, [0, 4]])
