"""LFM3: LFM2's short convolutions between windows and full attention, norms on both sides, and a gate for each head."""

import dataclasses

from models.architecture.attention import QKNormSpec
from models.architecture.decoder import DecoderSpec
from models.architecture.layer import LayerSpec, NormPlacement
from models.config.hf_config import HFConfig
from models.config.layers import kinds_of_layers
from models.config.rope import rope_spec, with_default_rope
from models.families import lfm2, llama
from models.families.name_map import To
from models.families.registry import Family

_ROPE = {
    "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
    "full_attention": {"rope_type": "proportional", "rope_theta": 1000000.0, "partial_rotary_factor": 0.5},
}


def describe(config: HFConfig) -> DecoderSpec:
    config = with_default_rope(config, _ROPE)
    fields = {"hidden_act": "silu", "rms_norm_eps": config.number("norm_eps", 1e-5)}
    config = config.with_fields(fields)
    spec = llama.describe(config, llama.Defaults(head_dim=128, has_tied_head=True))
    count = len(spec.layers)
    kinds = kinds_of_layers(config, count, ("conv", *_ROPE), _usual_kind)
    conv = lfm2.short_conv(config, spec, kernel_size=7)
    window = None if config.is_null("sliding_window") else config.integer("sliding_window", 256)
    has_gate = config.boolean("use_attention_gate", True)
    is_sandwich = config.boolean("use_sandwich_norm", True)

    def adapt(index: int, layer: LayerSpec) -> LayerSpec:
        layer = dataclasses.replace(layer, placement=NormPlacement.SANDWICH if is_sandwich else NormPlacement.PRE)
        if kinds[index] == "conv":
            return dataclasses.replace(layer, mixer=conv, rope=None)
        is_windowed = kinds[index] == "sliding_attention"
        return dataclasses.replace(
            layer.with_window(window if is_windowed else None),
            rope=rope_spec(config, layer.attention.head_dim, layer_type=kinds[index]),
            qk_norm=QKNormSpec(layer.norm),
            has_output_gate=has_gate,
            gates_whole_heads=has_gate,
        )

    return spec.map_layers(adapt)


def _usual_kind(index: int) -> str:
    """Return the kind of a layer if the configuration lists none."""
    if index % 4 == 2:
        return "full_attention"
    return "sliding_attention" if index % 4 == 0 and index > 0 else "conv"


# Of several names for one place, adapters get the last.
NAMES = {
    "model.layers.{i}.self_attn.o_proj.*": To("layers.{i}.attn.out"),
    "model.layers.{i}.self_attn.gate_proj.*": To("layers.{i}.attn.qkv", "gate"),  # in checkpoints
    "model.layers.{i}.self_attn.g_proj.*": To("layers.{i}.attn.qkv", "gate"),  # in the model
    "model.layers.{i}.self_attn.q_norm.*": To("layers.{i}.attn.q_norm"),
    "model.layers.{i}.self_attn.k_norm.*": To("layers.{i}.attn.k_norm"),
    "model.layers.{i}.post_operator_norm.*": To("layers.{i}.attn_post_norm"),
    "model.layers.{i}.post_ffn_norm.*": To("layers.{i}.mlp_post_norm"),
    **{name: to for name, to in lfm2.NAMES.items() if ".self_attn.out_proj." not in name},
}

FAMILY = Family(describe, NAMES)
