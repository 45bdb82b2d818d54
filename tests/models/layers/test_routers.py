"""Routers and experts against transformers' own modules, for what a whole model would show only by chance."""

import pytest
import torch
from torch import nn
from transformers import DeepseekV2Config, DeepseekV3Config, Llama4TextConfig, PhimoeConfig
from transformers.models.deepseek_v2.modeling_deepseek_v2 import DeepseekV2TopkRouter
from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3TopkRouter
from transformers.models.llama4.modeling_llama4 import Llama4TextMoe
from transformers.models.phimoe.modeling_phimoe import PhimoeTopKRouter

from models.architecture.feed_forward import Activation, GroupScore, MLPSpec, MoESpec, RouterScore, RouterSpec
from models.kernels.operands import RouterWeights
from models.kernels.row_input import IDENTITY
from models.kernels.torch.experts import route
from models.layers.moe import MoE
from models.linear.dense import DenseLinearMethod
from tests.helpers.checkpoints import cpu_compute

HIDDEN, EXPERTS, CHOSEN = 32, 12, 3
GROUPS = {"n_group": 4, "topk_group": 2}


def filled(module: nn.Module, seed: int = 0) -> nn.Module:
    """transformers' module with random parameters and buffers."""
    generator = torch.Generator().manual_seed(seed)
    for tensor in (*module.parameters(), *module.buffers()):
        scale = 0.2 if tensor.dim() == 1 else tensor.shape[-1] ** -0.5
        tensor.data.copy_(scale * torch.randn(tensor.shape, generator=generator))
    return module.eval()


def router_of(spec: RouterSpec, theirs: nn.Module) -> RouterWeights:
    correction = theirs.e_score_correction_bias.data if spec.has_correction else None
    return RouterWeights(theirs.weight.data, correction=correction)


def by_expert(experts: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """[T, E] weights, 0 of those not chosen: free of the order in which they were chosen."""
    return torch.zeros(len(experts), EXPERTS).scatter_(1, experts, weights)


def rows(num: int = 200) -> torch.Tensor:
    return torch.randn(num, HIDDEN, generator=torch.Generator().manual_seed(1))


def assert_same_choice(spec: RouterSpec, theirs: nn.Module) -> None:
    with torch.no_grad():
        _, weights, experts = theirs(rows())
        ours = by_expert(*route(spec, router_of(spec, theirs), rows()))

    assert len(experts.unique()) == EXPERTS  # no expert goes untested
    torch.testing.assert_close(ours, by_expert(experts, weights), rtol=0.0, atol=1e-6)


@pytest.mark.parametrize("is_grouped", [False, True])
def test_softmax_router_equals_deepseek_v2(is_grouped: bool) -> None:
    config = DeepseekV2Config(
        hidden_size=HIDDEN,
        n_routed_experts=EXPERTS,
        num_experts_per_tok=CHOSEN,
        routed_scaling_factor=2.5,
        topk_method="group_limited_greedy" if is_grouped else "greedy",
        **GROUPS,
    )
    groups = {"num_groups": 4, "groups_per_token": 2, "group_score": GroupScore.BEST} if is_grouped else {}
    spec = RouterSpec(RouterScore.SOFTMAX, CHOSEN, renormalizes=False, scale=2.5, **groups)

    assert_same_choice(spec, filled(DeepseekV2TopkRouter(config)))


@pytest.mark.parametrize("renormalizes", [False, True])
def test_sigmoid_router_with_correction_equals_deepseek_v3(renormalizes: bool) -> None:
    config = DeepseekV3Config(
        hidden_size=HIDDEN,
        n_routed_experts=EXPERTS,
        num_experts_per_tok=CHOSEN,
        routed_scaling_factor=2.5,
        norm_topk_prob=renormalizes,
        **GROUPS,
    )
    spec = RouterSpec(
        RouterScore.SIGMOID,
        CHOSEN,
        renormalizes=renormalizes,
        has_correction=True,
        num_groups=4,
        groups_per_token=2,
        group_score=GroupScore.BEST_TWO,
        scale=2.5,
    )

    assert_same_choice(spec, filled(DeepseekV3TopkRouter(config)))


def test_sparsemixer_equals_phimoe() -> None:
    config = PhimoeConfig(hidden_size=HIDDEN, num_local_experts=EXPERTS, num_experts_per_tok=2, router_jitter_noise=0.2)
    spec = RouterSpec(RouterScore.SPARSEMIXER, 2, renormalizes=False, jitter=0.2)

    assert_same_choice(spec, filled(PhimoeTopKRouter(config)))


def test_correction_decides_the_choice_but_not_the_weights() -> None:
    spec = RouterSpec(RouterScore.SIGMOID, 1, renormalizes=False, has_correction=True)
    router = RouterWeights(torch.zeros(EXPERTS, HIDDEN), correction=torch.arange(EXPERTS) * 0.1)

    experts, weights = route(spec, router, rows(2))

    assert experts.tolist() == [[EXPERTS - 1]] * 2
    torch.testing.assert_close(weights, torch.full((2, 1), 0.5))


@pytest.mark.parametrize("chosen", [1, 2])
def test_weighted_inputs_equal_llama4(chosen: int) -> None:
    config = Llama4TextConfig(
        hidden_size=HIDDEN, intermediate_size=48, num_local_experts=EXPERTS, num_experts_per_tok=chosen
    )
    theirs = filled(Llama4TextMoe(config))
    mlp = MLPSpec(48, Activation.SILU, is_gated=True)
    spec = MoESpec(
        EXPERTS, mlp, RouterSpec(RouterScore.SIGMOID, chosen, renormalizes=False, scales_input=True), shared=mlp
    )
    ours = MoE(spec, HIDDEN, compute=cpu_compute(), method=DenseLinearMethod(torch.float32))
    state = {"router.weight": theirs.router.weight}
    for index in range(EXPERTS):
        state[f"experts.{index}.gate_up.weight"] = theirs.experts.gate_up_proj[index].T
        state[f"experts.{index}.down.weight"] = theirs.experts.down_proj[index].T
    shared = theirs.shared_expert
    state["shared.gate_up.weight"] = torch.cat((shared.gate_proj.weight, shared.up_proj.weight))
    state["shared.down.weight"] = shared.down_proj.weight
    ours.load_state_dict(state, assign=True)

    with torch.no_grad():
        expected, _ = theirs(rows(50))
        actual = ours(rows(50), IDENTITY)

    torch.testing.assert_close(actual, expected, rtol=0.0, atol=1e-5)
