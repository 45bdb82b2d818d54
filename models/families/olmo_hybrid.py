"""OLMo Hybrid: the gated delta rule with b up to 2 in most layers, the attention of OLMo 2 in every fourth."""

import dataclasses

from models.architecture.decoder import DecoderSpec
from models.architecture.layer import LayerSpec
from models.architecture.norm import NormKind, NormSpec
from models.architecture.recurrence import GatedDeltaSpec
from models.config.hf_config import HFConfig
from models.config.layers import kinds_of_layers
from models.families import llama, olmo2
from models.families.delta_rule import KINDS, delta_names, head_delta
from models.families.name_map import To
from models.families.registry import Family


def describe(config: HFConfig) -> DecoderSpec:
    spec = llama.describe(config, llama.Defaults(activation="silu"))
    delta, last = _delta(config, spec), len(spec.layers) - 1
    kinds = kinds_of_layers(
        config, last + 1, KINDS, lambda index: KINDS[index % 4 == 3 or (index == last and last < 3)]
    )
    section = config.section("rope_parameters")
    stated = section if "rope_theta" in section.fields else config
    has_rope = not stated.is_null("rope_theta")  # absence means the default

    def adapt(index: int, layer: LayerSpec) -> LayerSpec:
        if kinds[index] == "linear_attention":
            return dataclasses.replace(layer, mixer=delta, rope=None)
        return dataclasses.replace(olmo2.with_post_norms(layer), rope=layer.rope if has_rope else None)

    return spec.map_layers(adapt)


def _delta(config: HFConfig, spec: DecoderSpec) -> GatedDeltaSpec:
    num_heads = config.integer("num_attention_heads")
    num_key_heads = config.integer("linear_num_key_heads", num_heads)
    key_dim = config.integer("linear_key_head_dim", max(1, int(0.75 * spec.hidden_size / num_key_heads)))
    norm = NormSpec(NormKind.RMS, 1e-5)  # regardless of rms_norm_eps
    sizes = {"num_value_heads": num_heads, "key_dim": key_dim, "value_dim": 2 * key_dim}
    return dataclasses.replace(
        head_delta(config, norm, num_key_heads=num_key_heads, **sizes),
        has_own_qkv=True,
        beta_scale=2.0 if config.boolean("linear_allow_neg_eigval", True) else 1.0,
    )


NAMES = {
    **olmo2.NAMES,
    "model.layers.{i}.attention_layer_norm.*": To("layers.{i}.attn_norm"),
    "model.layers.{i}.feedforward_layer_norm.*": To("layers.{i}.mlp_norm", otherwise="layers.{i}.attn_post_norm"),
    "model.layers.{i}.post_attention_layernorm.*": To("layers.{i}.attn_post_norm", otherwise="layers.{i}.mlp_norm"),
    **delta_names("linear_attn", z="g_proj", a="a_proj"),
    "model.layers.{i}.linear_attn.o_proj.*": To("layers.{i}.attn.out", when_present="layers.{i}.attn.in_proj"),
}

FAMILY = Family(describe, NAMES)
