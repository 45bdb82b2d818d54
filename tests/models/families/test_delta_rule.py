"""Configurations of delta rules and linear units: fields of published files, and contradictions that are refused."""

from typing import Any

import pytest
from transformers import PretrainedConfig

from models.architecture.decoder import DecoderSpec
from models.architecture.recurrence import GatedDeltaSpec
from models.config.hf_config import HFConfig
from models.errors import ModelError
from models.families.registry import family_of
from tests.models.families.bailing_hybrid_variants import ling
from tests.models.families.kimi_linear_variants import kimi_linear
from tests.models.families.recurrent_gemma_variants import recurrent_gemma
from tests.models.families.recurrent_variants import olmo_hybrid

NAMES = {
    "bailing_hybrid": "BailingHybridForCausalLM",
    "kimi_linear": "KimiLinearForCausalLM",
    "olmo_hybrid": "OlmoHybridForCausalLM",
    "recurrent_gemma": "RecurrentGemmaForCausalLM",
}


def spec_of(config: PretrainedConfig, **changes: Any) -> DecoderSpec:
    fields = {name: value for name, value in {**config.to_dict(), **changes}.items() if value != "left out"}
    return family_of(NAMES[config.model_type]).describe(HFConfig(fields, "config.json"))


def test_published_kimi_linear_lists_its_layers_from_one_on() -> None:
    linear = {
        "kda_layers": [1, 3],
        "full_attn_layers": [2],
        "num_heads": 3,
        "head_dim": 16,
        "short_conv_kernel_size": 3,
    }
    gone = dict.fromkeys(("layer_types", "linear_num_heads", "linear_head_dim", "linear_conv_kernel_dim"), "left out")

    spec = spec_of(kimi_linear(), linear_attn_config=linear, **gone)

    assert spec == spec_of(kimi_linear(linear_conv_kernel_dim=3))


def test_ling_rotates_its_whole_rotary_part() -> None:
    assert spec_of(ling(), partial_rotary_factor=0.5) == spec_of(ling())


def test_olmo_hybrid_has_no_positions_if_its_base_is_null() -> None:
    spec = spec_of(olmo_hybrid(), rope_parameters=None, rope_theta=None)

    assert {layer.rope for layer in spec.layers} == {None}


def test_recurrent_gemma_takes_contexts_beyond_its_window() -> None:
    spec = spec_of(recurrent_gemma(), max_position_embeddings="left out")

    assert spec.max_position == 8192


def test_ling_groups_layers_and_prefers_the_size_of_its_own_heads() -> None:
    spec = spec_of(ling(), layer_types="left out", layer_group_size=2, head_dim=64, linear_head_dim=48)

    assert [isinstance(layer.mixer, GatedDeltaSpec) for layer in spec.layers] == [True, False, True]
    assert spec.layers[0].recurrence.key_dim == 48  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("config", "changes", "message"),
    [
        (ling(), {"expert_swiglu_limit_list": [None, 7.0, 7.0]}, "expert_swiglu_limit_list is not supported"),
        (
            kimi_linear(),
            {"layer_types": "left out", "linear_attn_config": {"kda_layers": [1, 2], "full_attn_layers": [2]}},
            "kda_layers and full_attn_layers must list the layers 1 to 3 once each",
        ),
        (kimi_linear(), {"layer_types": ["full_attention"]}, "layer_types lists 1 layers; the model has 3"),
        (
            kimi_linear(),
            {"linear_conv_kernel_dim": 9},
            "linear_conv_kernel_dim is 9; it must be an integer from 2 to 8",
        ),
        (kimi_linear(), {"mla_use_nope": False}, "mla_use_nope false .* is not supported"),
        (kimi_linear(), {"moe_router_activation_func": "softmax"}, "supported is 'sigmoid'"),
        (ling(), {"kda_lower_bound": 0.5}, "kda_lower_bound is 0.5; it must be below 0"),
        (ling(), {"layer_types": ["rwkv"] * 3}, "layer 0 of layer_types is 'rwkv'; known are"),
        (olmo_hybrid(), {"linear_num_key_heads": 3}, "linear_num_key_heads 3 does not divide linear_num_value_heads 4"),
        (recurrent_gemma(), {"block_types": ["attention", "mamba"]}, "it must list 'recurrent' and 'attention'"),
        (recurrent_gemma(), {"lru_width": 66}, "num_attention_heads 4 does not divide lru_width 66"),
        (recurrent_gemma(), {"hidden_activation": "relu"}, "supported is 'gelu_pytorch_tanh'"),
    ],
)
def test_contradictions_are_refused(config: PretrainedConfig, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        spec_of(config, **changes)
