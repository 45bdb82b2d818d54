"""Gemma 4 (text): heads of two sizes, norms of values, scaled layers; layers of the small ones share keys and values.

Unlike in earlier generations, norms are stored as they are.
"""

import dataclasses
from typing import Any

from models.architecture.attention import QKNormSpec
from models.architecture.decoder import DecoderSpec
from models.architecture.feed_forward import MLPSpec, MoESpec, RouterScore, RouterSpec
from models.architecture.layer import LayerInputSpec, LayerSpec, NormPlacement
from models.architecture.norm import NormSpec
from models.checkpoints.gguf.fields import common_fields, layer_counts, num_layers, window_fields
from models.checkpoints.gguf.metadata import GGUFMetadata
from models.config.hf_config import HFConfig
from models.config.layers import kv_layers, layer_configs, sliding_windows
from models.config.rope import rope_spec, with_default_rope
from models.errors import CheckpointError, UnsupportedModelError
from models.families import llama, olmo
from models.families.experts import expert_names, gguf_stacked_names
from models.families.gemma import with_activation
from models.families.name_map import To
from models.families.registry import Family
from models.families.transforms import over_root_size

_PATTERN = 6  # every sixth layer has full attention, and the last one too
_INPUT_SIZE = "hidden_size_per_layer_input"
_ROPE = {
    "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
    "full_attention": {"rope_type": "proportional", "partial_rotary_factor": 0.25, "rope_theta": 1000000.0},
}


def describe(config: HFConfig) -> DecoderSpec:
    spec = _describe_dense(config, window=512)
    first = spec.layers[0]
    assert isinstance(first.mlp, MLPSpec)
    layer_input = None
    size = 0 if config.is_null(_INPUT_SIZE) else config.integer(_INPUT_SIZE, 256, minimum=0)
    if size:
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
    config = config.with_defaults({"num_key_value_heads": 4})
    spec = llama.describe(config, defaults)
    count = len(spec.layers)
    windows = sliding_windows(config, count, is_windowed=lambda index: (index + 1) % _PATTERN != 0, default=window)
    types = config.raw("layer_types")
    if config.is_null("sliding_window") and (types is None or "sliding_attention" in types):
        raise CheckpointError(
            f"{config.source}: sliding_window is null, and layers of the type sliding_attention need one; "
            f"{config.remedy}"
        )
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
    **expert_names("", place="moe"),
    "model.layers.{i}.layer_scalar": To("layers.{i}.output_scale"),
}

GGUF_NAMES = {
    **olmo.GGUF_NAMES,
    "per_layer_token_embd.*": To("layer_inputs.table"),
    "per_layer_model_proj.*": To("layer_inputs.project"),
    "per_layer_proj_norm.*": To("layer_inputs.norm"),
    "blk.{i}.inp_gate.*": To("layers.{i}.layer_input.gate"),
    "blk.{i}.proj.*": To("layers.{i}.layer_input.out"),
    "blk.{i}.post_norm.*": To("layers.{i}.layer_input.norm"),
    "blk.{i}.post_ffw_norm_1.*": To("layers.{i}.mlp_own_norm"),
    "blk.{i}.pre_ffw_norm_2.*": To("layers.{i}.moe_norm"),
    "blk.{i}.post_ffw_norm_2.*": To("layers.{i}.moe_own_norm"),
    "blk.{i}.ffn_gate_inp.scale": To("layers.{i}.moe.router.norm", transform=over_root_size),
    "blk.{i}.ffn_down_exps.scale": To("layers.{i}.moe.router", parameter="expert_scale"),
    **gguf_stacked_names("moe"),
    "blk.{i}.layer_output_scale.*": To("layers.{i}.output_scale"),
}


def gguf_fields(file: GGUFMetadata) -> dict[str, Any]:
    """Return the fields of config.json. Whether values are keys is seen by the tensors."""
    count = num_layers(file)
    kv_heads, sizes = (layer_counts(file, name) for name in ("attention.head_count_kv", "feed_forward_length"))
    first = {"attention.head_count_kv": kv_heads[0], "feed_forward_length": sizes[0]}
    fields = common_fields(file.with_fields(first)) | window_fields(file)
    head_dim = file.integer("attention.key_length_swa", fields["head_dim"])
    if file.integer("attention.value_length_swa", head_dim) != head_dim:
        raise UnsupportedModelError(f"{file.source}: keys and values of different sizes are not supported")
    if "layer_types" not in fields:
        raise CheckpointError(
            f"{file.source}: attention.sliding_window_pattern is not a list of {count} flags; convert the model again"
        )
    is_full = [kind == "full_attention" for kind in fields["layer_types"]]
    layers = zip(is_full, kv_heads, sizes, strict=True)
    table = file.tensors.get("per_layer_token_embd.weight")
    return {
        **fields,
        "hidden_activation": "gelu_pytorch_tanh",
        "rope_parameters": _gguf_rope(file, fields["head_dim"], head_dim),
        "per_layer_config": {
            index: {
                "head_dim": fields["head_dim"] if full else head_dim,
                "num_key_value_heads": num_heads,
                "intermediate_size": size,
            }
            for index, (full, num_heads, size) in enumerate(layers)
        },
        "attention_k_eq_v": any(
            full and f"blk.{index}.attn_k.weight" in file.tensors and f"blk.{index}.attn_v.weight" not in file.tensors
            for index, full in enumerate(is_full)
        ),
        "num_kv_shared_layers": file.integer("attention.shared_kv_layers", 0, minimum=0),
        "hidden_size_per_layer_input": file.integer("embedding_length_per_layer_input", 0, minimum=0),
        "vocab_size_per_layer_input": None if table is None else table.shape[0],
        "final_logit_softcapping": file.scale("final_logit_softcapping"),
        "enable_moe_block": bool(file.size("expert_count")),
        "num_experts": file.size("expert_count"),
        "top_k_experts": file.size("expert_used_count"),
        "moe_intermediate_size": file.size("expert_feed_forward_length"),
    }


def _gguf_rope(file: GGUFMetadata, full_dim: int, window_dim: int) -> dict[str, Any]:
    """Return `rope_parameters`. Files mark the pairs that do not rotate by a huge factor of their wavelength."""
    factors = file.values("rope_freqs.weight") or [1.0] * (full_dim // 2)
    num_pairs = factors.count(1.0)
    if len(factors) != full_dim // 2 or not all(factor > 1e29 for factor in factors[num_pairs:]):
        raise UnsupportedModelError(
            f"{file.source}: rope_freqs.weight must have {full_dim // 2} factors, each 1, and then each above 1e29"
        )
    window_theta = file.number("rope.freq_base_swa", 10000.0)
    window_share = file.integer("rope.dimension_count_swa", window_dim) / window_dim
    return {
        "full_attention": {
            "rope_type": "proportional",
            "rope_theta": file.number("rope.freq_base", 1000000.0),
            "partial_rotary_factor": 2 * num_pairs / full_dim,
        },
        "sliding_attention": {
            "rope_type": "default",
            "rope_theta": window_theta,
            "partial_rotary_factor": window_share,
        },
    }


FAMILY = Family(describe, NAMES, GGUF_NAMES, gguf_fields)
UNIFIED = Family(describe_unified, NAMES)
