"""MiMo-V2-Flash and V2.5: values smaller than keys, and in windows twice the key heads and sinks; sigmoid experts."""

import dataclasses
from typing import Any

from models.architecture.decoder import DecoderSpec
from models.architecture.layer import LayerSpec
from models.checkpoints.gguf.fields import common_fields, layer_counts, window_fields
from models.checkpoints.gguf.metadata import GGUFMetadata
from models.checkpoints.gguf.rope import rope_parameters_by_layer
from models.config.hf_config import HFConfig
from models.config.layers import kinds_of_layers, windows_of_kinds
from models.config.rope import ropes_by_type
from models.families import llama, qwen2, routed_experts
from models.families.name_map import IGNORE, To
from models.families.registry import Family

_FULL, _WINDOWED = "full_attention", "sliding_attention"
_EXPERTS = {
    **routed_experts.UNGROUPED_DEFAULTS,
    "n_shared_experts": 0,
    "routed_scaling_factor": 1.0,
}


def describe(config: HFConfig) -> DecoderSpec:
    if config.has("sliding_window_size"):  # in released checkpoints: positions before a query's own
        config = config.with_fields({"sliding_window": config.integer("sliding_window_size") + 1})
    defaults = llama.Defaults(head_dim=192, rope_theta=5e6, rotary_share=0.334, eps=1e-5, activation="silu")
    spec = llama.describe(config, defaults)
    kinds = kinds_of_layers(
        config,
        len(spec.layers),
        (_FULL, _WINDOWED),
        lambda index: _FULL if index == 0 or index % 6 == 5 else _WINDOWED,
        numbered="hybrid_layer_pattern",
    )
    windows = windows_of_kinds(config, kinds, 129)
    full = spec.layers[0].attention
    ropes = ropes_by_type(config, full.head_dim, window_theta="swa_rope_theta", default_theta=5e6, default_share=0.334)
    own = config.with_fields({"num_key_value_heads": 2 * full.num_kv_heads})
    own = own.renamed({"num_key_value_heads": "swa_num_key_value_heads"})
    windowed = llama.describe_layer(own, defaults).attention
    attention = {
        _FULL: dataclasses.replace(full, has_sinks=config.boolean("add_full_attention_sink_bias", False)),
        _WINDOWED: dataclasses.replace(windowed, has_sinks=config.boolean("add_swa_attention_sink_bias", True)),
    }
    scale = 1.0 if config.is_null("attention_value_scale") else config.number("attention_value_scale", 0.707)
    size = config.integer("v_head_dim", 128)

    def adapt(index: int, layer: LayerSpec) -> LayerSpec:
        mixer = dataclasses.replace(
            attention[kinds[index]], sliding_window=windows[index], value_size=size, value_scale=scale
        )
        return dataclasses.replace(layer, mixer=mixer, rope=ropes[kinds[index]], has_out_bias=False)

    return routed_experts.with_experts(config, spec.map_layers(adapt), _EXPERTS)


NAMES = {
    "model.mtp.**": IGNORE,  # multi-token prediction
    **llama.NAMES,
    **routed_experts.NAMES,
    "model.layers.{i}.self_attn.qkv_proj.*": To("layers.{i}.attn.qkv"),  # MiMo-V2.5: all queries, keys, values
    "model.layers.{i}.self_attn.sinks": To("layers.{i}.attn", parameter="sinks"),
    "model.layers.{i}.self_attn.attention_sink_bias": To("layers.{i}.attn", parameter="sinks"),
}

GGUF_NAMES = {
    "blk.{x}.**": IGNORE,
    **qwen2.GGUF_NAMES,
    **routed_experts.GGUF_NAMES,
    "blk.{i}.attn_sinks.weight": To("layers.{i}.attn", parameter="sinks"),
}


def gguf_fields(file: GGUFMetadata) -> dict[str, Any]:
    """Return the fields of config.json. Key heads are by layer; a window is `sliding_window_size`."""
    counts = layer_counts(file, "attention.head_count_kv")
    windows = window_fields(file, must_list=True)
    of_kind = dict(zip(windows["layer_types"], counts, strict=True))  # others of a kind would not fit the tensors
    full = of_kind.get(_FULL, counts[0])
    same = {"attention.head_count_kv": full, "attention.value_length": file.raw("attention.key_length")}
    common = common_fields(file.with_fields(same))
    return {
        **common,
        **routed_experts.gguf_fields(file, scoring="sigmoid"),
        "norm_topk_prob": file.boolean("expert_weights_norm", True),  # which the converter does not write
        "layer_types": windows["layer_types"],
        "sliding_window_size": windows.get("sliding_window"),
        "swa_num_key_value_heads": of_kind.get(_WINDOWED, full),
        "v_head_dim": file.integer("attention.value_length", common["head_dim"]),
        "attention_value_scale": file.scale("attention.value_scale"),
        "add_swa_attention_sink_bias": any(name.endswith("attn_sinks.weight") for name in file.tensors),
        "rope_parameters": rope_parameters_by_layer(file, common["head_dim"], window_theta=1e4),
    }


FAMILY = Family(describe, NAMES, GGUF_NAMES, gguf_fields)
