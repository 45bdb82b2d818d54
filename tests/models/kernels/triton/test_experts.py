"""Experts by grouped products of Triton kernels, against those that torch computes in turn."""

import dataclasses

import pytest
import torch

from models.architecture.feed_forward import Activation, MLPSpec, MoESpec, RouterScore, RouterSpec, SwigluClamp
from models.kernels.ops import Operations
from models.kernels.row_input import IDENTITY
from models.kernels.triton.codes import multiply_grouped_codes
from models.kernels.triton.experts import GroupedExperts
from models.kernels.triton.moe import multiply_grouped, sort_pairs
from models.kernels.triton.operations import TritonOperations
from models.kernels.triton.tuned import grouped_tiles
from models.layers.mlp import MLP
from models.layers.moe import MoE
from models.linear.coded import CodedLinearMethod, _Part
from models.linear.coding import code_quantized
from models.linear.dense import DenseLinearMethod
from models.quant.dequantize import dequantize
from models.quant.tensor import Encoding, QuantKind
from tests.helpers.checkpoints import cpu_compute
from tests.helpers.gpu.compile import compiled, launches
from tests.helpers.gpu.interpreter import interpreting
from tests.helpers.random_quantized import random_quantized, relative_error
from tests.models.kernels.test_rows import normal

CPU = torch.device("cpu")
HIDDEN, EXPERTS = 40, 5  # no whole tiles
GATED = MLPSpec(24, Activation.SILU, is_gated=True)
ROUTER = RouterSpec(RouterScore.SOFTMAX, 2, renormalizes=True)
BIASED = dataclasses.replace(GATED, has_up_bias=True, has_down_bias=True, clamp=SwigluClamp(alpha=1.702, limit=1.0))
LAYERS = {
    "gated": MoESpec(EXPERTS, GATED, ROUTER),
    "clamped with biases": MoESpec(EXPERTS, BIASED, ROUTER),
    "plain, in a latent size": MoESpec(
        EXPERTS, MLPSpec(24, Activation.RELU_SQUARED, is_gated=False), ROUTER, shared=GATED, latent_size=16
    ),
    "weighted inputs, shared": MoESpec(
        EXPERTS,
        GATED,
        RouterSpec(RouterScore.SIGMOID, 2, renormalizes=False, scales_input=True),
        shared=GATED,
        has_shared_gate=True,
    ),
}


def layer_with(spec: MoESpec, ops: Operations, dtype: torch.dtype, hidden_size: int = HIDDEN) -> MoE:
    """A layer with random weights, the same for all operations."""
    compute = dataclasses.replace(cpu_compute(), ops=ops, dtype=dtype)
    moe = MoE(spec, hidden_size, compute=compute, method=DenseLinearMethod(dtype, ops.linear()))
    generator = torch.Generator().manual_seed(0)
    state = {
        name: (torch.randn(each.shape, generator=generator) * each.shape[-1] ** -0.5).to(each.dtype)
        for name, each in moe.named_parameters()
    }
    moe.load_state_dict(state, assign=True)
    return moe.eval()


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.inference_mode():
        yield


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 1e-2)])
@pytest.mark.parametrize("name", LAYERS)
def test_experts_equal_those_computed_in_turn(name: str, dtype: torch.dtype, tolerance: float) -> None:
    x, residual = normal(3, HIDDEN, seed=1, dtype=dtype), normal(3, HIDDEN, seed=2, dtype=dtype)
    exact = layer_with(LAYERS[name], Operations(), torch.float32)
    moe = layer_with(LAYERS[name], TritonOperations(CPU), dtype)
    exact.load_state_dict(moe.state_dict())
    want = exact(x.float(), IDENTITY, residual.float())

    with interpreting():
        got = moe(x, IDENTITY, residual.clone())

    assert not moe.is_in_torch
    assert got.dtype == dtype
    assert relative_error(got, want) < tolerance
    assert moe.rows_per_expert.tolist() == exact.rows_per_expert.tolist()


def quantize_experts(moe: MoE, exact: MoE, kind: QuantKind, ops: TritonOperations, dtype: torch.dtype) -> None:
    """Give the experts random quantized weights, and those of `exact` the same numbers."""
    for expert, other in zip(moe.experts, exact.experts, strict=True):
        for linear, dense in zip(expert.linears, other.linears, strict=True):
            matrix = random_quantized(kind, linear.out_features, linear.in_features, scale_dtype=torch.float16)
            dense.weight.data = dequantize(matrix, torch.float32)
            linear.method = CodedLinearMethod({}, dtype, CPU, ops.linear())
            linear.method._parts = [_Part(code_quantized(matrix))]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize("kind", [QuantKind(Encoding.INT4, 32, has_zeros=True), QuantKind(Encoding.INT8, 32)], ids=str)
def test_quantized_experts_equal_those_computed_in_turn(kind: QuantKind, dtype: torch.dtype, tolerance: float) -> None:
    """With biases; afterwards the experts' own codes are views of what they share."""
    mlp, ops = dataclasses.replace(BIASED, intermediate_size=32), TritonOperations(CPU)
    spec = MoESpec(EXPERTS, mlp, ROUTER)
    exact, moe = layer_with(spec, Operations(), torch.float32, 64), layer_with(spec, ops, dtype, 64)
    for name, each in moe.named_parameters():
        exact.get_parameter(name).data.copy_(each)
    quantize_experts(moe, exact, kind, ops, dtype)
    x = normal(3, 64, seed=1, dtype=dtype)
    want = exact(x.float(), IDENTITY)

    with interpreting():
        got = moe(x, IDENTITY)

    assert isinstance(moe._experts, GroupedExperts)
    assert relative_error(got, want) < tolerance
    assert moe.rows_per_expert.tolist() == exact.rows_per_expert.tolist()
    codes = [expert.linears[0].method._parts[0].weight.codes for expert in moe.experts]  # type: ignore[union-attr]
    assert len({each.untyped_storage().data_ptr() for each in codes}) == 1
    with interpreting():  # and one expert alone still computes
        torch.testing.assert_close(
            moe.experts[1](x, IDENTITY).float(), exact.experts[1](x.float(), IDENTITY), rtol=0.1, atol=0.1
        )


def test_one_expert_alone_may_share_scales_among_rows() -> None:
    spec = MoESpec(
        1, dataclasses.replace(GATED, intermediate_size=32), dataclasses.replace(ROUTER, experts_per_token=1)
    )
    ops = TritonOperations(CPU)
    exact, moe = layer_with(spec, Operations(), torch.float32, 64), layer_with(spec, ops, torch.float32, 64)
    exact.load_state_dict(moe.state_dict())
    quantize_experts(moe, exact, QuantKind(Encoding.FP8_E4M3, 32, row_group=16), ops, torch.float32)
    x = normal(3, 64, seed=1)

    with interpreting():
        got = moe(x, IDENTITY)

    assert isinstance(moe._experts, GroupedExperts)
    assert relative_error(got, exact(x, IDENTITY)) < 1e-5


def test_experts_of_different_formats_are_left_to_torch() -> None:
    spec = MoESpec(EXPERTS, dataclasses.replace(GATED, intermediate_size=32), ROUTER)
    ops = TritonOperations(CPU)
    exact, moe = layer_with(spec, Operations(), torch.float32, 64), layer_with(spec, ops, torch.float32, 64)
    quantize_experts(moe, exact, QuantKind(Encoding.INT4, 32), ops, torch.float32)
    linear = moe.experts[1].linears[0]
    linear.method._parts *= 2  # type: ignore[operator]
    assert moe.is_in_torch


def test_no_other_expert_is_read() -> None:
    moe = layer_with(LAYERS["gated"], TritonOperations(CPU), torch.float32)
    with torch.no_grad():
        moe.router.weight.zero_()
        moe.router.weight[2:4] = 9.0  # of positive inputs
        for index in (0, 1, 4):
            for linear in moe.experts[index].linears:
                linear.weight.fill_(torch.nan)

    with interpreting():
        y = moe(normal(2, HIDDEN, seed=1).abs(), IDENTITY)

    assert y.isfinite().all()
    assert moe.rows_per_expert.tolist() == [0, 0, 2, 2, 0]


def test_weights_become_views_of_one_tensor() -> None:
    moe = layer_with(LAYERS["clamped with biases"], TritonOperations(CPU), torch.float32)
    before = [each.clone() for each in moe.parameters()]

    assert isinstance(moe._experts, GroupedExperts)

    first = [expert.linears[0].weight for expert in moe.experts]
    assert len({each.untyped_storage().data_ptr() for each in first}) == 1
    assert all(map(torch.equal, moe.parameters(), before))


def test_a_step_without_rows_launches_nothing() -> None:
    moe = layer_with(LAYERS["gated"], TritonOperations(CPU), torch.float32)

    assert not launches(lambda: moe(torch.empty(0, HIDDEN), IDENTITY))


@pytest.mark.parametrize("per_expert", [1, 40])
def test_pairs_of_any_number_are_computed(per_expert: int) -> None:
    experts = torch.tensor([1, 3] * per_expert + [3])
    weights, x = normal(4, 48, 64, seed=1, dtype=torch.bfloat16), normal(len(experts), 64, seed=2, dtype=torch.bfloat16)
    tiles = grouped_tiles(len(experts) / 2, torch.bfloat16)

    with interpreting():
        pairs = sort_pairs(experts, experts.bincount(minlength=4), tiles.rows)
        got = multiply_grouped(x, weights, None, pairs, tiles, out_dtype=torch.float32)

    assert relative_error(got, torch.einsum("pk,pnk->pn", x.double(), weights[experts].double())) < 1e-5


def test_experts_with_parameters_of_their_activation_are_left_to_torch() -> None:
    spec = MoESpec(EXPERTS, MLPSpec(24, Activation.XIELU, is_gated=False), ROUTER)

    assert layer_with(spec, TritonOperations(CPU), torch.float32).is_in_torch


def test_experts_without_dense_weights_have_no_matrices() -> None:
    moe = layer_with(LAYERS["gated"], TritonOperations(CPU), torch.float32)
    expert = moe.experts[1]
    assert isinstance(expert, MLP)
    expert.down.method = None

    assert expert.dense is None
    assert moe.is_in_torch


def test_few_rows_are_multiplied_by_tensor_cores() -> None:
    check_compiled(1, torch.bfloat16, 90)


@pytest.mark.long
@pytest.mark.parametrize("sm", [80, 90, 100])
@pytest.mark.parametrize(
    ("per_expert", "dtype"), [(1, torch.bfloat16), (16, torch.bfloat16), (128, torch.bfloat16), (1, torch.float32)]
)
def test_products_compile_without_spills(per_expert: int, dtype: torch.dtype, sm: int) -> None:
    check_compiled(per_expert, dtype, sm)


@pytest.mark.parametrize(
    "sm", [90, pytest.param(80, marks=pytest.mark.long), pytest.param(100, marks=pytest.mark.long)]
)
def test_products_with_codes_compile_without_spills(sm: int) -> None:
    matrix = random_quantized(QuantKind(Encoding.INT4, 128), 1536, 512, scale_dtype=torch.float16)
    weight = code_quantized(matrix)
    for per_expert in (1, 64):
        experts, tiles = torch.zeros(8 * per_expert, dtype=torch.int64), grouped_tiles(per_expert, torch.bfloat16)
        pairs = sort_pairs(experts, torch.zeros(8, dtype=torch.int64), tiles.rows)
        x = torch.empty(per_expert, 512, dtype=torch.bfloat16)
        for launch in launches(
            lambda x=x, pairs=pairs, tiles=tiles: multiply_grouped_codes(
                x, weight, None, pairs, tiles, out_dtype=torch.float32
            )
        ):
            code = compiled(launch, sm)
            code.check()
            assert code.count("HMMA|HGMMA|UTCHMMA|UTCMMA") > 0


def check_compiled(per_expert: int, dtype: torch.dtype, sm: int) -> None:
    with torch.device("meta"):
        experts = torch.zeros(8 * per_expert, dtype=torch.int64)
        weights, x = torch.empty(8, 1536, 2048, dtype=dtype), torch.empty(per_expert, 2048, dtype=dtype)
        factors, tiles = torch.empty(8 * per_expert), grouped_tiles(per_expert, dtype)
        pairs = sort_pairs(experts, torch.zeros(8, dtype=torch.int64), tiles.rows)
        found = launches(
            lambda: multiply_grouped(x, weights, None, pairs, tiles, factors=factors, out_dtype=torch.float32)
        )
    for launch in found:
        code = compiled(launch, sm)
        code.check()
        if dtype == torch.bfloat16:
            assert code.count("HMMA|HGMMA|UTCHMMA|UTCMMA") > 0
            assert code.count(r"LDGSTS\.E.*\.128") > 0
