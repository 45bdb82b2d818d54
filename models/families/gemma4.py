"""Gemma 4 Unified (text): heads of two sizes, norms of values, values from the keys' matrix, scaled layers.

Unlike in earlier generations, norms are stored as they are.
"""

import dataclasses

from models.architecture.attention import QKNormSpec
from models.architecture.decoder import DecoderSpec
from models.architecture.layer import LayerSpec, NormPlacement
from models.config.hf_config import HFConfig
from models.config.layers import layer_configs, sliding_windows
from models.config.rope import rope_spec, with_default_rope
from models.errors import UnsupportedModelError
from models.families import llama, olmo
from models.families.gemma import with_activation
from models.families.name_map import To
from models.families.registry import Family

_PATTERN = 6  # one layer in so many has full attention, and the last has, too
_ROPE = {
    "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
    "full_attention": {"rope_type": "proportional", "partial_rotary_factor": 0.25, "rope_theta": 1000000.0},
}


def describe_unified(config: HFConfig) -> DecoderSpec:
    if config.raw("use_bidirectional_attention") == "all":  # "vision" is about images alone
        raise UnsupportedModelError(
            f'{config.source}: use_bidirectional_attention "all" is not supported; this is not a decoder'
        )
    if config.integer("num_kv_shared_layers", 0, minimum=0):
        raise UnsupportedModelError(f"{config.source}: num_kv_shared_layers above 0 is not supported")
    defaults = llama.Defaults(head_dim=256, has_tied_head=True)
    config = with_default_rope(with_activation(config), _ROPE)
    config = dataclasses.replace(config, fields={"num_key_value_heads": 4, **config.fields})
    spec = llama.describe(config, defaults)
    count = len(spec.layers)
    windows = sliding_windows(config, count, is_windowed=lambda index: (index + 1) % _PATTERN != 0, default=1024)
    windows[-1] = None
    has_own_values = not config.boolean("attention_k_eq_v", False)
    full = {"head_dim": config.integer("global_head_dim", 512)}
    if config.has("num_global_key_value_heads") and not has_own_values:
        full["num_key_value_heads"] = config.integer("num_global_key_value_heads")
    configs = layer_configs(config, count, {index: full for index in range(count) if windows[index] is None})

    def adapt(index: int, _: LayerSpec) -> LayerSpec:
        layer = llama.describe_layer(configs[index], defaults)
        if (window := windows[index]) is not None:
            rope = rope_spec(config, layer.attention.head_dim, layer_type="sliding_attention")
            layer = dataclasses.replace(layer, rope=rope)
        return dataclasses.replace(
            layer,
            mixer=dataclasses.replace(layer.attention, scale=1.0, sliding_window=window),
            placement=NormPlacement.SANDWICH,
            qk_norm=QKNormSpec(layer.norm),
            value_norm=dataclasses.replace(layer.norm, has_weight=False),
            has_value_matrix=has_own_values or window is not None,
            has_output_scale=True,
        )

    cap = config.number("final_logit_softcapping") if config.has("final_logit_softcapping") else None
    return dataclasses.replace(spec.map_layers(adapt), embedding_scale=spec.hidden_size**0.5, logit_softcap=cap)


NAMES = {
    **olmo.NAMES,
    "model.layers.{i}.pre_feedforward_layernorm.*": To("layers.{i}.mlp_norm"),
    "model.layers.{i}.layer_scalar": To("layers.{i}.output_scale"),
}

UNIFIED = Family(describe_unified, NAMES)
