"""The C++ mixture of experts against the torch one, over weights that are the same in both."""

import dataclasses

import gguf
import pytest
import torch
import torch.nn.functional as F
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
from models.architecture.norm import NormKind, NormSpec
from models.kernels.cpu.library import KernelLibrary, required_library
from models.kernels.cpu.linear import PackedLinear
from models.kernels.cpu.moe import NativeExperts
from models.kernels.cpu.operations import CpuOperations
from models.kernels.cpu.packed_weight import NativeWeight, pack_weight
from models.kernels.formats import WeightFormat
from models.kernels.operands import ExpertLayer, LatentExperts, RouterWeights
from models.kernels.row_input import IDENTITY, Elementwise, InputKind, Prologue, RowInput
from models.kernels.torch.experts import route
from models.layers.mlp import MLP
from models.layers.moe import MoE
from models.linear.dense import DenseLinearMethod
from models.quant.dequantize import dequantize
from models.quant.round_to_nearest import quantize_matrix
from models.quant.scaled_weight import pack_quantized
from models.quant.tensor import Encoding
from tests.helpers.checkpoints import cpu_compute
from tests.models.kernels.conftest import Column

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
    "divided by 0.5 at least": dataclasses.replace(PLAIN_ROUTER, sum_floor=0.5),
    "sparsemixer": RouterSpec(RouterScore.SPARSEMIXER, 2, renormalizes=False, jitter=0.3),
    "factors of experts": dataclasses.replace(GROUPED, has_expert_scale=True),
    "sparsemixer, factors of experts": RouterSpec(
        RouterScore.SPARSEMIXER, 2, renormalizes=False, has_expert_scale=True
    ),
    "all experts": dataclasses.replace(PLAIN_ROUTER, experts_per_token=EXPERTS),
}


def random_moe(spec: MoESpec) -> MoE:
    """In fp32, with weights rounded to bf16."""
    moe = MoE(spec, HIDDEN, compute=cpu_compute(), method=DenseLinearMethod(torch.float32))
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


class PackedExpert:
    """An expert that computes in torch, and whose linear layers are also packed."""

    def __init__(self, expert: MLP, library: KernelLibrary, held: Encoding | WeightFormat) -> None:
        """held: the packed format, whose values the expert takes."""
        self._expert = expert
        self.activation = expert.activation
        up, down = expert.linears
        self.packed = (
            self._packed(up, [INNER] * (up.out_features // INNER), held, library),
            self._packed(down, [down.out_features], held, library),
        )

    def __call__(self, x: torch.Tensor, norm: Prologue) -> torch.Tensor:
        return self._expert(x, norm)

    def _packed(
        self, layer: nn.Module, sizes: list[int], held: Encoding | WeightFormat, library: KernelLibrary
    ) -> PackedLinear:
        weights = [pack(part, held, library) for part in layer.weight.split(sizes)]
        biases = None if layer.bias is None else list(layer.bias.split(sizes))
        return PackedLinear(weights, biases, library=library)


def packed_layer(moe: MoE, library: KernelLibrary, held: Encoding | WeightFormat = WeightFormat.BF16) -> ExpertLayer:
    """The same experts packed, of which `moe` takes the values."""
    experts = [PackedExpert(expert, library, held) for expert in moe.experts]
    counts = torch.zeros(EXPERTS, dtype=torch.int64)
    return ExpertLayer(moe.router.spec, router_weights(moe), experts, counts, moe.router.norm)


def native(moe: MoE, library: KernelLibrary, held: Encoding | WeightFormat = WeightFormat.BF16) -> NativeExperts:
    experts = CpuOperations(library, torch.float32).experts(packed_layer(moe, library, held))
    assert isinstance(experts, NativeExperts)
    return experts


def router_weights(moe: MoE) -> RouterWeights:
    router = moe.router
    return RouterWeights(router.weight, router.bias, router.correction, moe.shared_gate, router.expert_scale)


def experts_of(moe: MoE, x: torch.Tensor, router_rows: torch.Tensor | None = None) -> torch.Tensor:
    """The weighted outputs of the chosen experts alone, by definition. router_rows: by default x."""
    chosen, weights = route(moe.router.spec, router_weights(moe), x if router_rows is None else router_rows)
    outputs = torch.stack([expert(x, IDENTITY) for expert in moe.experts], dim=1)  # [T, E, K]
    return (outputs.gather(1, chosen.unsqueeze(-1).expand(-1, -1, HIDDEN)) * weights.unsqueeze(-1)).sum(dim=1)


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

    experts, weights = native(moe, kernels).route(rows(60) * 3)
    want_experts, want_weights = route(moe.router.spec, router_weights(moe), rows(60) * 3)

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

    experts.compute(rows(count), None, out, adds=False)

    assert_near(out, moe(rows(count), IDENTITY), 0.06)


@pytest.mark.parametrize("has_gate", [False, True])
@pytest.mark.parametrize("has_residual", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_shared_expert_and_residual_are_added(
    column: Column, has_gate: bool, has_residual: bool, dtype: torch.dtype
) -> None:
    moe = random_moe(MoESpec(EXPERTS, GATED, PLAIN_ROUTER, shared=GATED, has_shared_gate=has_gate))
    x, residual = rows(7).to(dtype), rows(7, seed=2).to(dtype) if has_residual else None
    norm = Elementwise(RowInput(InputKind.RMS_NORM, torch.ones(HIDDEN), eps=1e-6), lambda x: F.rms_norm(x, (HIDDEN,)))
    normed = norm(x.float())
    gate = torch.sigmoid(normed @ moe.shared_gate.T) if has_gate else 1.0
    want = (
        experts_of(moe, normed) + gate * moe.shared(normed, IDENTITY) + (0.0 if residual is None else residual.float())
    )
    experts = column(dtype).experts(packed_layer(moe, column.kernels or required_library()))

    def shared(rows: torch.Tensor, added: torch.Tensor | None) -> torch.Tensor:
        output = moe.shared(rows.float(), IDENTITY)
        return output if added is None else added.add_(output)

    got = experts(x, norm, residual, shared)

    assert got.dtype == dtype
    assert_near(got.float(), want, 0.05)


@pytest.mark.parametrize("has_residual", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_experts_compute_in_a_latent_size(column: Column, has_residual: bool, dtype: torch.dtype) -> None:
    spec = MoESpec(EXPERTS, GATED, PLAIN_ROUTER, shared=GATED, latent_size=32, has_latent_bias=True)
    moe = random_moe(spec)
    x, residual = rows(20).to(dtype), rows(20, seed=2).to(dtype) if has_residual else None
    chosen, weights = route(moe.router.spec, router_weights(moe), x)
    outputs = torch.stack([expert(moe.latent_down(x.float()), IDENTITY) for expert in moe.experts], dim=1)  # [T, E, L]
    mixed = (outputs.gather(1, chosen.unsqueeze(-1).expand(-1, -1, 32)) * weights.unsqueeze(-1)).sum(dim=1)
    added = 0.0 if residual is None else residual.float()
    want = moe.latent_up(mixed) + moe.shared(x.float(), IDENTITY) + added
    experts = column(dtype).experts(packed_layer(moe, column.kernels or required_library()))
    latent = LatentExperts(
        lambda rows: moe.latent_down(rows.float()).to(rows.dtype),
        lambda mixed, added, dtype: moe.latent_up(mixed.float(), residual=added, out_dtype=dtype),
    )

    def shared(rows: torch.Tensor, added: torch.Tensor | None) -> torch.Tensor:
        output = moe.shared(rows.float(), IDENTITY)
        return output if added is None else added.add_(output)

    got = experts(x, IDENTITY, residual, shared, latent)

    assert got.dtype == dtype
    assert_near(got.float(), want, 0.05)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_router_may_have_a_norm_of_its_own(column: Column, dtype: torch.dtype) -> None:
    router = dataclasses.replace(PLAIN_ROUTER, norm=NormSpec(NormKind.RMS, 1e-6))
    moe, x = random_moe(MoESpec(EXPERTS, GATED, router)), rows(7).to(dtype)
    norm = Elementwise(RowInput(InputKind.RMS_NORM, torch.ones(HIDDEN), eps=1e-6), lambda x: F.rms_norm(x, (HIDDEN,)))
    want = experts_of(moe, norm(x.float()), moe.router.norm(x.float()))

    got = column(dtype).experts(packed_layer(moe, column.kernels or required_library()))(x, norm, None, None)

    assert_near(got.float(), want, 0.05)
    assert (want - experts_of(moe, norm(x.float()))).abs().max() > want.std()


@pytest.mark.parametrize("count", [1, 40])
def test_inputs_are_weighted(kernels: KernelLibrary, count: int) -> None:
    router = RouterSpec(RouterScore.SIGMOID, 2, renormalizes=False, scales_input=True)
    moe = random_moe(MoESpec(EXPERTS, GATED, router))
    out = torch.empty(count, HIDDEN)

    native(moe, kernels).compute(rows(count), None, out, adds=False)

    assert_near(out, moe(rows(count), IDENTITY), 0.05)


def test_rows_do_not_depend_on_their_batch(kernels: KernelLibrary) -> None:
    experts = native(random_moe(MoESpec(EXPERTS, GATED, GROUPED)), kernels)
    together, alone = torch.empty(6, HIDDEN), torch.empty(6, HIDDEN)

    experts.compute(rows(6), None, together, adds=False)
    for row in range(6):
        experts.compute(rows(6)[row : row + 1], None, alone[row : row + 1], adds=False)

    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)


def test_rows_that_are_not_finite_spoil_no_others(kernels: KernelLibrary) -> None:
    experts = native(random_moe(MoESpec(EXPERTS, GATED, PLAIN_ROUTER)), kernels)
    for seed in range(20):
        x = rows(6, seed)
        want, got = torch.empty(2, 6, HIDDEN)
        experts.compute(x, None, want, adds=False)
        x[1] = torch.nan

        experts.compute(x, None, got, adds=False)

        assert got[1].isnan().all()
        torch.testing.assert_close(got[[0, 2, 3, 4, 5]], want[[0, 2, 3, 4, 5]], rtol=1e-5, atol=1e-5)


def test_rows_of_each_expert_are_counted(kernels: KernelLibrary) -> None:
    moe = random_moe(MoESpec(EXPERTS, GATED, GROUPED))
    experts = native(moe, kernels)
    chosen, _ = experts.route(rows(50))

    for _ in range(2):
        experts.compute(rows(50), None, torch.empty(50, HIDDEN), adds=False)

    counts = experts.rows_per_expert
    assert counts.tolist() == (2 * chosen.flatten().bincount(minlength=EXPERTS)).tolist()


def test_many_rows_are_computed_in_panels() -> None:
    library = required_library()
    moe = random_moe(MoESpec(EXPERTS, GATED, ROUTERS["all experts"]))
    count = (64 << 20) // (EXPERTS * (2 * INNER + HIDDEN) * 4) + 100  # kPanelBytes
    experts, x = native(moe, library), rows(count)
    out, parts = torch.empty(2, count, HIDDEN)

    experts.compute(x, None, out, adds=False)
    for start in range(0, count, 1000):
        experts.compute(x[start : start + 1000], None, parts[start : start + 1000], adds=False)

    torch.testing.assert_close(out, parts, rtol=1e-4, atol=1e-4)
