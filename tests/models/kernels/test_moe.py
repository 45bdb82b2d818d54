"""The C++ mixture of experts against the torch one, over weights that both hold alike."""

import dataclasses

import gguf
import pytest
import torch
from torch import nn

from models.architecture.feed_forward import (
    Activation,
    GroupScore,
    MLPSpec,
    MoESpec,
    RouterScore,
    RouterSpec,
    SwigluClamp,
)
from models.kernels.cpu.library import KernelLibrary, required_library
from models.kernels.cpu.linear import PackedLinear
from models.kernels.cpu.moe import NativeExperts, RouterWeights, supports_experts
from models.kernels.cpu.packed_weight import NativeWeight, WeightFormat, pack_weight
from models.layers.moe import MoE, Router
from models.linear.dense import DenseLinearMethod
from models.linear.prologue import IDENTITY
from models.quant.dequantize import dequantize
from models.quant.round_to_nearest import quantize_matrix
from models.quant.scaled_weight import pack_quantized
from models.quant.tensor import Encoding

HIDDEN, INNER, EXPERTS = 64, 96, 8
GATED = MLPSpec(INNER, Activation.SILU, is_gated=True)
PLAIN_ROUTER = RouterSpec(RouterScore.SOFTMAX, 2, renormalizes=True)
GROUPED = RouterSpec(
    RouterScore.SIGMOID, 3, renormalizes=True, has_bias=True, has_correction=True, num_groups=4, groups_per_token=2,
    group_score=GroupScore.BEST_TWO, scale=2.5,
)  # fmt: skip
ROUTERS = {
    "softmax": PLAIN_ROUTER,
    "softmax, not renormalized": dataclasses.replace(PLAIN_ROUTER, renormalizes=False, scale=1.5),
    "grouped by the best": dataclasses.replace(
        PLAIN_ROUTER, renormalizes=False, num_groups=2, groups_per_token=1, group_score=GroupScore.BEST
    ),
    "sigmoid, grouped by two": GROUPED,
    "all experts": dataclasses.replace(PLAIN_ROUTER, experts_per_token=EXPERTS),
}


def random_moe(spec: MoESpec) -> MoE:
    """In fp32, with weights rounded to bf16."""
    moe = MoE(spec, HIDDEN, method=DenseLinearMethod(torch.float32), dtype=torch.float32)
    generator = torch.Generator().manual_seed(0)
    state = {}
    for name, parameter in moe.named_parameters():
        values = torch.randn(parameter.shape, generator=generator) * parameter.shape[-1] ** -0.5
        state[name] = values if name.startswith("router") else values.bfloat16().float()
    moe.load_state_dict(state, assign=True)
    return moe.eval()


def pack(matrix: torch.Tensor, held: Encoding | WeightFormat, library: KernelLibrary) -> NativeWeight:
    """`matrix` packed, of which it takes the values."""
    if isinstance(held, Encoding):
        quantized = quantize_matrix(matrix.contiguous(), held, 32)
        matrix.copy_(dequantize(quantized, torch.float32))
        return pack_quantized(quantized, library=library)
    if held is WeightFormat.BF16:
        return pack_weight(held, matrix.bfloat16().contiguous(), *matrix.shape, library=library)
    kind = gguf.GGMLQuantizationType[held.name]
    blocks = gguf.quants.quantize(matrix.contiguous().numpy(), kind)
    matrix.copy_(torch.from_numpy(gguf.quants.dequantize(blocks, kind)))
    return pack_weight(held, torch.from_numpy(blocks), *matrix.shape, library=library)


def native(moe: MoE, library: KernelLibrary, held: Encoding | WeightFormat = WeightFormat.BF16) -> NativeExperts:
    """The same experts packed, of which `moe` takes the values."""

    def packed(layer: nn.Module, sizes: list[int]) -> PackedLinear:
        weights = [pack(part, held, library) for part in layer.weight.split(sizes)]
        biases = None if layer.bias is None else list(layer.bias.split(sizes))
        return PackedLinear(weights, biases, library=library)

    experts = []
    for expert in moe.experts:
        up, down = expert.linears
        experts.append((packed(up, [INNER] * (up.out_features // INNER)), packed(down, [HIDDEN])))
    assert supports_experts(experts)
    router = moe.router
    weights = RouterWeights(router.weight, router.bias, router.correction, moe.shared_gate)
    counts = torch.zeros(EXPERTS, dtype=torch.int64)
    return NativeExperts(router.spec, weights, experts, moe.experts[0].activation.row_input, counts, library=library)


def rows(count: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(count, HIDDEN, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.inference_mode():
        yield


def assert_near(actual: torch.Tensor, expected: torch.Tensor, tolerance: float) -> None:
    """Errors of rounded activations, relative to the values' spread."""
    assert (actual - expected).abs().max() <= tolerance * expected.std()


@pytest.mark.parametrize("name", ROUTERS)
def test_router_equals_torch(kernels: KernelLibrary, name: str) -> None:
    moe = random_moe(MoESpec(EXPERTS, GATED, ROUTERS[name]))
    router: Router = moe.router

    experts, weights = native(moe, kernels).route(rows(60) * 3)
    want_experts, want_weights = router(rows(60) * 3)

    actual = torch.zeros(60, EXPERTS).scatter_(1, experts.long(), weights)
    expected = torch.zeros(60, EXPERTS).scatter_(1, want_experts, want_weights)
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-6)


MLPS = {
    "gated": GATED,
    "plain with biases": MLPSpec(INNER, Activation.GELU, is_gated=False, has_up_bias=True, has_down_bias=True),
    "clamped with biases": dataclasses.replace(
        GATED, has_up_bias=True, has_down_bias=True, clamp=SwigluClamp(alpha=1.702, limit=1.0)
    ),
}


@pytest.mark.parametrize("held", [WeightFormat.BF16, WeightFormat.Q5_0, Encoding.INT4, Encoding.FP8_E4M3])
@pytest.mark.parametrize("count", [1, 5, 90])
@pytest.mark.parametrize("name", MLPS)
def test_experts_equal_torch(kernels: KernelLibrary, name: str, count: int, held: Encoding | WeightFormat) -> None:
    moe = random_moe(MoESpec(EXPERTS, MLPS[name], GROUPED))
    experts = native(moe, kernels, held)
    out = torch.empty(count, HIDDEN)

    experts(rows(count), None, out, adds=False)

    assert_near(out, moe(rows(count), IDENTITY), 0.06)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_shared_is_added_through_its_gate(kernels: KernelLibrary, dtype: torch.dtype) -> None:
    moe = random_moe(MoESpec(EXPERTS, GATED, PLAIN_ROUTER, shared=GATED, has_shared_gate=True))
    x, residual = rows(7), rows(7, seed=2).to(dtype)
    want = residual.float() + moe(x, IDENTITY)

    native(moe, kernels)(x, moe.shared(x, IDENTITY), residual, adds=True)

    assert_near(residual.float(), want, 0.05)


@pytest.mark.parametrize("count", [1, 40])
def test_inputs_are_weighted(kernels: KernelLibrary, count: int) -> None:
    router = RouterSpec(RouterScore.SIGMOID, 2, renormalizes=False, scales_input=True)
    moe = random_moe(MoESpec(EXPERTS, GATED, router))
    out = torch.empty(count, HIDDEN)

    native(moe, kernels)(rows(count), None, out, adds=False)

    assert_near(out, moe(rows(count), IDENTITY), 0.05)


def test_rows_do_not_depend_on_their_batch(kernels: KernelLibrary) -> None:
    experts = native(random_moe(MoESpec(EXPERTS, GATED, GROUPED)), kernels)
    together, alone = torch.empty(6, HIDDEN), torch.empty(6, HIDDEN)

    experts(rows(6), None, together, adds=False)
    for row in range(6):
        experts(rows(6)[row : row + 1], None, alone[row : row + 1], adds=False)

    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)


def test_rows_that_are_not_finite_spoil_no_others(kernels: KernelLibrary) -> None:
    experts = native(random_moe(MoESpec(EXPERTS, GATED, PLAIN_ROUTER)), kernels)
    for seed in range(20):
        x = rows(6, seed)
        want, got = torch.empty(2, 6, HIDDEN)
        experts(x, None, want, adds=False)
        x[1] = torch.nan

        experts(x, None, got, adds=False)

        assert got[1].isnan().all()
        torch.testing.assert_close(got[[0, 2, 3, 4, 5]], want[[0, 2, 3, 4, 5]], rtol=1e-5, atol=1e-5)


def test_rows_of_each_expert_are_counted(kernels: KernelLibrary) -> None:
    moe = random_moe(MoESpec(EXPERTS, GATED, GROUPED))
    experts = native(moe, kernels)
    chosen, _ = experts.route(rows(50))

    for _ in range(2):
        experts(rows(50), None, torch.empty(50, HIDDEN), adds=False)

    counts = experts.rows_per_expert
    assert counts.tolist() == (2 * chosen.flatten().bincount(minlength=EXPERTS)).tolist()


def test_many_rows_are_computed_in_panels() -> None:
    library = required_library()
    moe = random_moe(MoESpec(EXPERTS, GATED, ROUTERS["all experts"]))
    count = (64 << 20) // (EXPERTS * (2 * INNER + HIDDEN) * 4) + 100  # kPanelBytes
    experts, x = native(moe, library), rows(count)
    out, parts = torch.empty(2, count, HIDDEN)

    experts(x, None, out, adds=False)
    for start in range(0, count, 1000):
        experts(x[start : start + 1000], None, parts[start : start + 1000], adds=False)

    torch.testing.assert_close(out, parts, rtol=1e-4, atol=1e-4)
