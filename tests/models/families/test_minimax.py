"""MiniMax-Text-01's published configuration, whose fields transformers has under other names."""

import pytest

from models.architecture.decoder import DecoderSpec
from models.config.hf_config import HFConfig
from models.errors import ModelError
from models.families.multimodal import find_family
from tests.models.families.minimax_variants import minimax

PUBLISHED = {
    "attn_type_list": [0, 1, 0],
    **{f"layernorm_{part}_alpha": 3.5 for part in ("full_attention", "linear_attention", "mlp")},
    **{f"layernorm_{part}_beta": 1.0 for part in ("full_attention", "linear_attention", "mlp")},
}
OTHERWISE = ("layer_types", "alpha_factor", "beta_factor")


def described(architecture: str, fields: dict[str, object]) -> DecoderSpec:
    family, config = find_family(HFConfig({**fields, "architectures": [architecture]}, "config.json"))
    return family.describe(config)


def published(**changes: object) -> dict[str, object]:
    fields = {name: value for name, value in minimax().to_dict().items() if not name.endswith(OTHERWISE)}
    return {**fields, **PUBLISHED, **changes}


@pytest.mark.parametrize("architecture", ["MiniMaxText01ForCausalLM", "MiniMaxM1ForCausalLM"])
def test_published_fields_describe_the_same_model(architecture: str) -> None:
    factors = {f"{part}_alpha_factor": 3.5 for part in ("full_attn", "linear_attn", "mlp")}

    assert described(architecture, published()) == described("MiniMaxForCausalLM", minimax(**factors).to_dict())


def test_heads_may_be_rotated_in_part() -> None:
    rope = described("MiniMaxText01ForCausalLM", published(rotary_dim=8)).layers[1].rope

    assert rope is not None
    assert rope.rotary_dim == 8


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"attn_type_list": [0, 1]}, "attn_type_list lists 2 layers; the model has 3"),
        ({"attn_type_list": [0, 1, 2]}, "layer 2 of attn_type_list is 2; known are 0, 1"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'; supported is 'silu'"),
    ],
)
def test_contradictions_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        described("MiniMaxText01ForCausalLM", published(**changes))
