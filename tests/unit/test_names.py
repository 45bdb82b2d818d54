"""NameMap and the transforms that undo what a format stores differently."""

import pytest
import torch

from models.attention.base import AttentionSpec
from models.names import IGNORE, Destination, NameMap, To, transpose, unpermute_k, unpermute_q, with_prefixes
from models.spec import Activation, LayerSpec, MLPSpec, NormKind, NormSpec

RULES = {
    "embed.*": To("embed"),
    "layers.{i}.q_proj.*": To("layers.{i}.attn.qkv", "q", unpermute_q),
    "layers.{i}.bias": IGNORE,
}
LAYER = LayerSpec(
    attention=AttentionSpec(num_heads=3, num_kv_heads=2, head_dim=4, scale=0.5),
    rope=None,
    has_qkv_bias=False,
    has_out_bias=False,
    mlp=MLPSpec(8, Activation.SILU, is_gated=True, has_bias=False),
    norm=NormSpec(NormKind.RMS, 1e-6),
)


@pytest.mark.parametrize("parameter", ["weight", "bias", "weight_scale", "qzeros"])
def test_star_covers_every_parameter_of_a_layer(parameter: str) -> None:
    destination = NameMap(RULES).destination(f"layers.12.q_proj.{parameter}")

    assert destination == Destination("layers.12.attn.qkv", parameter, "q", 12, unpermute_q)


@pytest.mark.parametrize(
    "name", ["layers.x.q_proj.weight", "layers.1.q_proj.a.b", "layers.1.q_proj", "my.embed.weight", "embedXweight", ""]
)
def test_names_that_no_rule_spells_have_no_destination(name: str) -> None:
    assert NameMap(RULES).destination(name) is None
    assert not NameMap(RULES).is_ignored(name)


def test_ignored_name_has_no_destination() -> None:
    names = NameMap(RULES)

    assert names.is_ignored("layers.3.bias")
    assert names.destination("layers.3.bias") is None


def test_prefixes_apply_to_every_rule() -> None:
    names = NameMap(with_prefixes(("", "model."), RULES))

    assert names.destination("embed.weight") == names.destination("model.embed.weight")
    assert names.is_ignored("model.layers.0.bias")


@pytest.mark.parametrize("shape", [(12, 5), (12,)])
@pytest.mark.parametrize(("unpermute", "heads"), [(unpermute_q, 3), (unpermute_k, 2)])
def test_unpermute_puts_interleaved_pairs_into_halves(shape: tuple[int, ...], unpermute, heads: int) -> None:
    halves = torch.arange(torch.tensor(shape).prod().item()).view(shape)
    dim = 12 // heads
    order = [
        head * dim + half * dim // 2 + pair for head in range(heads) for pair in range(dim // 2) for half in (0, 1)
    ]

    assert torch.equal(unpermute(halves[order], LAYER), halves)


def test_transpose_turns_matrices_and_leaves_vectors() -> None:
    assert transpose(torch.zeros(2, 3), LAYER).shape == (3, 2)
    assert transpose(torch.zeros(4), LAYER).shape == (4,)
