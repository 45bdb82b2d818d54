"""NameMap and the transforms that undo what a format stores differently."""

import dataclasses

import pytest
import torch

from models.architecture.attention import AttentionSpec
from models.architecture.feed_forward import Activation, MLPSpec
from models.architecture.layer import LayerSpec
from models.architecture.norm import NormKind, NormSpec
from models.architecture.positions import RopeSpec
from models.families.name_map import IGNORE, Destination, NameMap, To, with_prefixes, with_replaced
from models.families.transforms import plus_one, transpose, unpermute_head, unpermute_k, unpermute_q

RULES = {
    "embed.*": To("embed"),
    "layers.{i}.q_proj.*": To("layers.{i}.attn.qkv", "q", unpermute_q),
    "layers.{i}.bias": IGNORE,
}
LAYER = LayerSpec(
    mixer=AttentionSpec(num_heads=3, num_kv_heads=2, head_dim=4, scale=0.5),
    mlp=MLPSpec(8, Activation.SILU, is_gated=True),
    norm=NormSpec(NormKind.RMS, 1e-6),
)


def test_another_module_takes_a_tensor_in_layers_without_the_first() -> None:
    rules = {"layers.{i}.norm.*": To("layers.{i}.attn_norm", otherwise="layers.{i}.mlp_norm")}
    names = NameMap(rules, 2, {"layers.0.attn_norm", "layers.1.mlp_norm"})

    modules = [names.destinations(f"layers.{layer}.norm.weight")[0].module for layer in range(2)]

    assert modules == ["layers.0.attn_norm", "layers.1.mlp_norm"]
    assert NameMap(rules).destinations("layers.1.norm.weight")[0].module == "layers.1.attn_norm"


@pytest.mark.parametrize("parameter", ["weight", "bias", "weight_scale", "qzeros"])
def test_star_covers_every_parameter_of_a_layer(parameter: str) -> None:
    (destination,) = NameMap(RULES).destinations(f"layers.12.q_proj.{parameter}")

    assert destination == Destination("layers.12.attn.qkv", parameter, "q", 12, unpermute_q)


@pytest.mark.parametrize(
    "name", ["layers.x.q_proj.weight", "layers.1.q_proj.a.b", "layers.1.q_proj", "my.embed.weight", "embedXweight", ""]
)
def test_names_that_no_rule_spells_have_no_destination(name: str) -> None:
    assert NameMap(RULES).destinations(name) == ()
    assert not NameMap(RULES).is_ignored(name)


def test_numbers_that_rules_spell_are_told_apart() -> None:
    names = NameMap({"layers.{i}.mlp.0.*": To("layers.{i}.mlp.up"), "layers.{i}.mlp.2.*": To("layers.{i}.mlp.down")})

    found = [names.destinations(f"layers.{layer}.mlp.{part}.weight") for layer in (2, 10) for part in (0, 2, 1)]

    modules = [[destination.module for destination in destinations] for destinations in found]
    assert modules == [["layers.2.mlp.up"], ["layers.2.mlp.down"], [], ["layers.10.mlp.up"], ["layers.10.mlp.down"], []]


def test_ignored_name_has_no_destination() -> None:
    names = NameMap(RULES)

    assert names.is_ignored("layers.3.bias")
    assert names.destinations("layers.3.bias") == ()


def test_layers_behind_the_last_are_ignored_where_a_rule_says_so() -> None:
    names = NameMap({"layers.{x}.**": IGNORE, **RULES}, num_layers=3)

    assert names.is_ignored("layers.3.q_proj.weight")
    assert names.is_ignored("layers.12.shared_head.norm.weight")
    assert names.destinations("layers.2.q_proj.weight")
    assert not names.is_ignored("layers.2.shared_head.norm.weight")
    assert not names.is_ignored("layers.3")
    assert not NameMap(RULES, num_layers=3).is_ignored("layers.3.q_proj.weight")


def test_prefixes_apply_to_every_rule() -> None:
    names = NameMap(with_prefixes(("", "model."), RULES))

    assert names.destinations("embed.weight") == names.destinations("model.embed.weight")
    assert names.is_ignored("model.layers.0.bias")


@pytest.mark.parametrize("shape", [(12, 5), (12,)])
@pytest.mark.parametrize(("unpermute", "heads"), [(unpermute_q, 3), (unpermute_k, 2)])
def test_unpermute_puts_interleaved_pairs_into_halves(shape: tuple[int, ...], unpermute, heads: int) -> None:
    halves = torch.arange(torch.tensor(shape).prod().item()).view(shape)
    dim = 12 // heads
    order = [
        head * dim + half * dim // 2 + pair for head in range(heads) for pair in range(dim // 2) for half in (0, 1)
    ]

    assert torch.equal(unpermute(halves[order], rotating(dim)), halves)


def test_unpermute_moves_only_rotated_rows() -> None:
    stored = torch.tensor([0, 1, 2, 3, 4, 5])

    assert unpermute_k(torch.cat((stored, stored + 10)), rotating(4)).tolist() == [
        *(0, 2, 1, 3, 4, 5),
        *(10, 12, 11, 13, 14, 15),
    ]
    assert torch.equal(unpermute_k(stored, LAYER), stored)


def rotating(dim: int) -> LayerSpec:
    return dataclasses.replace(LAYER, rope=RopeSpec(dim, 10000.0))


@pytest.mark.parametrize("shape", [(4,), (3, 4)])
def test_unpermute_head_orders_the_weights_of_head_norms(shape: tuple[int, ...]) -> None:
    weights = torch.arange(4).expand(shape)

    assert torch.equal(unpermute_head(weights, rotating(4)), torch.tensor([0, 2, 1, 3]).expand(shape))


def test_plus_one_adds_in_the_dtype_it_is_given() -> None:
    assert plus_one(torch.tensor([0.5]), None).tolist() == [1.5]


# --- experts ---------------------------------------------------------------------------------------------------------


def test_experts_are_numbered_by_their_names() -> None:
    names = NameMap({"l.{i}.experts.{e}.w1.*": To("layers.{i}.mlp.experts.{e}.gate_up", "gate")})

    (destination,) = names.destinations("l.3.experts.11.w1.weight")

    assert destination == Destination("layers.3.mlp.experts.11.gate_up", "weight", "gate", 3, None)


def test_stack_of_experts_leaves_their_number_open() -> None:
    names = NameMap({"l.{i}.down_bias": To("layers.{i}.mlp.experts.{e}.down", parameter="bias")})

    (destination,) = names.destinations("l.3.down_bias")

    assert destination == Destination("layers.3.mlp.experts.{e}.down", "bias", None, 3, None)


def test_tensor_that_is_cut_up_has_several_destinations() -> None:
    names = NameMap({"l.{i}.both.*": (To("layers.{i}.a"), To("layers.{i}.b", "x"))})

    assert [d.module for d in names.destinations("l.0.both.weight")] == ["layers.0.a", "layers.0.b"]


def test_rules_for_tensors_that_are_saved_elsewhere() -> None:
    rules = with_replaced("model.", "backbone.", {"model.embed.*": To("embed"), "model.layers.{i}.model.*": IGNORE})

    assert rules == {"backbone.embed.*": To("embed"), "backbone.layers.{i}.model.*": IGNORE}


# --- others ----------------------------------------------------------------------------------------------------------


def test_transpose_turns_matrices_and_leaves_vectors() -> None:
    assert transpose(torch.zeros(2, 3), LAYER).shape == (3, 2)
    assert transpose(torch.zeros(4), LAYER).shape == (4,)
