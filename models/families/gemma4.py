"""Gemma 4 (text): heads of two sizes, norms of values, scaled layers; small models share keys and values."""

import dataclasses
import functools
from typing import Any

from models.architecture.attention import QKNormSpec
from models.architecture.decoder import DecoderSpec
from models.architecture.layer import LayerSpec, NormPlacement
from models.checkpoints.gguf.fields import common_fields, per_layer_config, window_fields, with_largest
from models.checkpoints.gguf.metadata import GGUFMetadata
from models.checkpoints.gguf.rope import rope_parameters_by_layer
from models.config.hf_config import HFConfig
from models.config.layers import kinds_of_layers, layer_configs, windows_of_kinds, with_shared_kv
from models.config.rope import with_default_rope
from models.families import gemma4_moe, layer_inputs, llama, olmo2
from models.families.gemma import check_is_decoder, soft_cap, with_activation
from models.families.name_map import To
from models.families.registry import Family

_ROPE = {
    "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
    "full_attention": {"rope_type": "proportional", "partial_rotary_factor": 0.25, "rope_theta": 1000000.0},
}
_SLIDING, _FULL = _ROPE
_DEFAULTS = llama.Defaults(head_dim=256, has_tied_head=True)


def describe(config: HFConfig) -> DecoderSpec:
    spec = describe_dense(config, window=512)
    inputs = layer_inputs.describe(config, spec.layers[0]) if layer_inputs.has_inputs(config) else None
    moe = gemma4_moe.describe(config, spec.layers[0])
    return spec.map_layers(lambda _, layer: dataclasses.replace(layer, layer_input=inputs, moe=moe))


def describe_dense(config: HFConfig, window: int) -> DecoderSpec:
    """Describe a model without experts and layers' inputs. window: the default of `sliding_window`."""
    check_is_decoder(config)
    config = with_default_rope(with_activation(config), _ROPE).with_defaults({"num_key_value_heads": 4})
    spec = llama.describe(config, _DEFAULTS)
    kinds = kinds_of_layers(
        config, len(spec.layers), (_SLIDING, _FULL), lambda index: _SLIDING if (index + 1) % 6 else _FULL
    )
    kinds[-1] = _FULL
    windows = windows_of_kinds(config, kinds, window)
    has_own_values = not config.boolean("attention_k_eq_v", False)
    full = {"head_dim": config.integer("global_head_dim", 512)}
    if config.has("num_global_key_value_heads") and not has_own_values:
        full["num_key_value_heads"] = config.integer("num_global_key_value_heads")
    usual = {index: full for index, kind in enumerate(kinds) if kind == _FULL}
    configs = layer_configs(config, len(kinds), usual)

    def adapt(index: int, _: LayerSpec) -> LayerSpec:
        layer = llama.describe_layer(configs[index], _DEFAULTS, kinds[index])
        return dataclasses.replace(
            layer,
            mixer=dataclasses.replace(layer.attention, scale=1.0, sliding_window=windows[index]),
            placement=NormPlacement.SANDWICH,
            qk_norm=QKNormSpec(layer.norm),
            value_norm=dataclasses.replace(layer.norm, has_weight=False),
            has_value_matrix=has_own_values or kinds[index] == _SLIDING,
            has_output_scale=True,
        )

    spec = with_shared_kv(config, spec.map_layers(adapt))
    if config.boolean("use_double_wide_mlp", False):
        spec = spec.map_layers(_widened)
    cap = soft_cap(config, "final_logit_softcapping", None)
    return dataclasses.replace(spec, embedding_scale=spec.hidden_size**0.5, logit_softcap=cap)


def _widened(_: int, layer: LayerSpec) -> LayerSpec:
    """Double the size of the MLP in a layer that reads the keys and values of another one."""
    size = layer.dense_mlp.intermediate_size * (1 if layer.kv_layer is None else 2)
    return dataclasses.replace(layer, mlp=layer.dense_mlp.with_size(size))


# Unlike in earlier generations, norms are stored as they are.
NAMES = {
    **olmo2.NAMES,
    **layer_inputs.NAMES,
    **gemma4_moe.NAMES,
    "model.layers.{i}.pre_feedforward_layernorm.*": To("layers.{i}.mlp_norm"),
    "model.layers.{i}.layer_scalar": To("layers.{i}.output_scale"),
}

GGUF_NAMES = {
    **olmo2.GGUF_NAMES,
    **layer_inputs.GGUF_NAMES,
    **gemma4_moe.GGUF_NAMES,
    "blk.{i}.layer_output_scale.*": To("layers.{i}.output_scale"),
}


def gguf_fields(file: GGUFMetadata) -> dict[str, Any]:
    """Return the fields of config.json. Whether values are keys is seen by the tensors."""
    fields = common_fields(with_largest(file, "attention.head_count_kv", "feed_forward_length"))
    fields |= window_fields(file, must_list=True)
    kinds, head_dim = fields["layer_types"], fields["head_dim"]
    return {
        **fields,
        **layer_inputs.gguf_fields(file),
        **gemma4_moe.gguf_fields(file),
        "hidden_activation": "gelu_pytorch_tanh",
        "rope_parameters": rope_parameters_by_layer(file, head_dim, window_theta=10000.0),
        "per_layer_config": per_layer_config(file, kinds, head_dim),
        "attention_k_eq_v": any(
            f"blk.{index}.attn_k.weight" in file.tensors and f"blk.{index}.attn_v.weight" not in file.tensors
            for index, kind in enumerate(kinds)
            if kind == _FULL
        ),
        "num_kv_shared_layers": file.integer("attention.shared_kv_layers", 0, minimum=0),
        "final_logit_softcapping": file.scale("final_logit_softcapping"),
    }


FAMILY = Family(describe, NAMES, GGUF_NAMES, gguf_fields)
UNIFIED = Family(functools.partial(describe_dense, window=1024), NAMES)
