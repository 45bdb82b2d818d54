"""Gemma 4 (text): heads of two sizes, norms of values, scaled layers; layers of the small ones share keys and values.

Unlike in earlier generations, norms are stored as they are.
"""

import dataclasses

from models.architecture.attention import QKNormSpec
from models.architecture.decoder import DecoderSpec
from models.architecture.feed_forward import MLPSpec, MoESpec, RouterScore, RouterSpec
from models.architecture.layer import LayerInputSpec, LayerSpec, NormPlacement
from models.architecture.norm import NormSpec
from models.config.hf_config import HFConfig
from models.config.layers import kv_layers, layer_configs, sliding_windows
from models.config.rope import rope_spec, with_default_rope
from models.errors import UnsupportedModelError
from models.families import llama, olmo
from models.families.gemma import with_activation
from models.families.name_map import To
from models.families.registry import Family
from models.families.transforms import over_root_size

_PATTERN = 6  # one layer in so many has full attention, and the last has, too
_ROPE = {
    "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
    "full_attention": {"rope_type": "proportional", "partial_rotary_factor": 0.25, "rope_theta": 1000000.0},
}


def describe(config: HFConfig) -> DecoderSpec:
    spec = _describe_dense(config, window=512)
    first = spec.layers[0]
    assert isinstance(first.mlp, MLPSpec)
    layer_input = None
    if size := config.integer("hidden_size_per_layer_input", 256, minimum=0):
        vocab_size = config.integer("vocab_size_per_layer_input", 262144)
        layer_input = LayerInputSpec(vocab_size, size, first.mlp.activation, first.norm)
    moe = _experts(config, first.mlp, first.norm) if config.boolean("enable_moe_block", False) else None
    return spec.map_layers(lambda _, layer: dataclasses.replace(layer, layer_input=layer_input, moe=moe))


def _experts(config: HFConfig, mlp: MLPSpec, norm: NormSpec) -> MoESpec:
    router = RouterSpec(
        RouterScore.SOFTMAX, config.integer("top_k_experts"), renormalizes=True, norm=norm, has_expert_scale=True
    )
    expert = dataclasses.replace(mlp, intermediate_size=config.integer("moe_intermediate_size"))
    return MoESpec(config.integer("num_experts"), expert, router)


def describe_unified(config: HFConfig) -> DecoderSpec:
    return _describe_dense(config, window=1024)


def _describe_dense(config: HFConfig, window: int) -> DecoderSpec:
    """Describe a model without experts and layers' inputs. window: the default of `sliding_window`."""
    if config.raw("use_bidirectional_attention") == "all":  # "vision" is about images alone
        raise UnsupportedModelError(
            f'{config.source}: use_bidirectional_attention "all" is not supported; this is not a decoder'
        )
    defaults = llama.Defaults(head_dim=256, has_tied_head=True)
    config = with_default_rope(with_activation(config), _ROPE)
    config = dataclasses.replace(config, fields={"num_key_value_heads": 4, **config.fields})
    spec = llama.describe(config, defaults)
    count = len(spec.layers)
    windows = sliding_windows(config, count, is_windowed=lambda index: (index + 1) % _PATTERN != 0, default=window)
    windows[-1] = None
    has_own_values = not config.boolean("attention_k_eq_v", False)
    full = {"head_dim": config.integer("global_head_dim", 512)}
    if config.has("num_global_key_value_heads") and not has_own_values:
        full["num_key_value_heads"] = config.integer("num_global_key_value_heads")
    configs = layer_configs(config, count, {index: full for index in range(count) if windows[index] is None})
    is_widened = config.boolean("use_double_wide_mlp", False)

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

    def share(index: int, layer: LayerSpec) -> LayerSpec:
        assert isinstance(layer.mlp, MLPSpec)
        if donors[index] is None or not is_widened:
            return dataclasses.replace(layer, kv_layer=donors[index])
        mlp = dataclasses.replace(layer.mlp, intermediate_size=2 * layer.mlp.intermediate_size)
        return dataclasses.replace(layer, kv_layer=donors[index], mlp=mlp)

    spec = spec.map_layers(adapt)
    donors = kv_layers(config, [layer.attention for layer in spec.layers])
    cap = config.number("final_logit_softcapping") if config.has("final_logit_softcapping") else None
    return dataclasses.replace(spec.map_layers(share), embedding_scale=spec.hidden_size**0.5, logit_softcap=cap)


NAMES = {
    **olmo.NAMES,
    "model.embed_tokens_per_layer.*": To("layer_inputs.table"),
    "model.per_layer_model_projection.*": To("layer_inputs.project"),
    "model.per_layer_projection_norm.*": To("layer_inputs.norm"),
    "model.layers.{i}.pre_feedforward_layernorm.*": To("layers.{i}.mlp_norm"),
    "model.layers.{i}.per_layer_input_gate.*": To("layers.{i}.layer_input.gate"),
    "model.layers.{i}.per_layer_projection.*": To("layers.{i}.layer_input.out"),
    "model.layers.{i}.post_per_layer_input_norm.*": To("layers.{i}.layer_input.norm"),
    "model.layers.{i}.post_feedforward_layernorm_1.*": To("layers.{i}.mlp_own_norm"),
    "model.layers.{i}.pre_feedforward_layernorm_2.*": To("layers.{i}.moe_norm"),
    "model.layers.{i}.post_feedforward_layernorm_2.*": To("layers.{i}.moe_own_norm"),
    "model.layers.{i}.router.proj.weight": To("layers.{i}.moe.router"),
    "model.layers.{i}.router.scale": To("layers.{i}.moe.router.norm", transform=over_root_size),
    "model.layers.{i}.router.per_expert_scale": To("layers.{i}.moe.router", parameter="expert_scale"),
    "model.layers.{i}.experts.gate_up_proj": To("layers.{i}.moe.experts.{e}.gate_up"),
    "model.layers.{i}.experts.down_proj": To("layers.{i}.moe.experts.{e}.down"),
    "model.layers.{i}.layer_scalar": To("layers.{i}.output_scale"),
}

FAMILY = Family(describe, NAMES)
UNIFIED = Family(describe_unified, NAMES)
