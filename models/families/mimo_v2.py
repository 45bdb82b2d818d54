"""MiMo-V2-Flash and V2.5: values smaller than keys, and in windows twice the key heads and sinks; sigmoid experts.

Longer than a page because configurations come in two spellings, transformers' and the first checkpoint's.
"""

import dataclasses
from typing import Any

from models.architecture.decoder import DecoderSpec
from models.architecture.layer import LayerSpec
from models.checkpoints.gguf.fields import common_fields, layer_counts, window_fields
from models.checkpoints.gguf.metadata import GGUFMetadata
from models.checkpoints.gguf.rope import rope_parameters_by_layer
from models.config.hf_config import HFConfig
from models.config.layers import layer_types
from models.config.rope import rope_spec
from models.errors import CheckpointError
from models.families import deepseek, llama, qwen2
from models.families.name_map import IGNORE, To
from models.families.registry import Family

_EXPERTS = {
    **deepseek.V3_DEFAULTS,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    "n_shared_experts": 0,
    "routed_scaling_factor": 1.0,
}


def describe(config: HFConfig) -> DecoderSpec:
    config = _in_one_spelling(config)
    defaults = llama.Defaults(head_dim=192, rope_theta=5e6, rotary_share=0.334, eps=1e-5, activation="silu")
    spec = llama.describe(config, defaults)
    kinds = {kind: kind for kind in ("full_attention", "sliding_attention")}
    types = layer_types(config, len(spec.layers), kinds) or [
        "full_attention" if index == 0 or index % 6 == 5 else "sliding_attention" for index in range(len(spec.layers))
    ]
    full = spec.layers[0].attention
    windowed = dataclasses.replace(
        full,
        num_kv_heads=config.integer("swa_num_key_value_heads", 2 * full.num_kv_heads),
        sliding_window=config.integer("sliding_window", 129),
        has_sinks=config.boolean("add_swa_attention_sink_bias", True),
    )
    if full.num_heads % windowed.num_kv_heads:
        raise CheckpointError(
            f"{config.source}: {windowed.num_kv_heads} key heads of layers with a window do not divide "
            f"num_attention_heads {full.num_heads}; {config.remedy}"
        )
    full = dataclasses.replace(full, has_sinks=config.boolean("add_full_attention_sink_bias", False))
    rope = rope_spec(config, full.head_dim, layer_type="sliding_attention", default_theta=1e4, default_share=0.334)
    has_scale = not config.is_null("attention_value_scale")
    scale = config.number("attention_value_scale", 0.707) if has_scale else 1.0
    size = config.integer("v_head_dim", 128)

    def adapt(index: int, layer: LayerSpec) -> LayerSpec:
        has_window = types[index] == "sliding_attention"
        return dataclasses.replace(
            layer,
            mixer=dataclasses.replace(windowed if has_window else full, value_size=size, value_scale=scale),
            rope=rope if has_window else layer.rope,
            has_out_bias=False,
        )

    return deepseek.with_experts(config, spec.map_layers(adapt), _EXPERTS)


def _in_one_spelling(config: HFConfig) -> HFConfig:
    """Return `config` with transformers' fields in place of XiaomiMiMo/MiMo-V2-Flash's own."""
    fields = dict(config.fields)
    if config.has("sliding_window_size"):  # positions before a query's own
        fields["sliding_window"] = config.integer("sliding_window_size") + 1
    for old, new, kinds in (
        ("hybrid_layer_pattern", "layer_types", ("full_attention", "sliding_attention")),
        ("moe_layer_freq", "mlp_layer_types", ("dense", "sparse")),
    ):
        flags = config.raw(old)
        if isinstance(flags, list) and not config.has(new):
            fields[new] = [kinds[bool(flag)] for flag in flags]
    if not config.has("rope_parameters"):
        share = config.number("partial_rotary_factor", 0.334)
        thetas = {
            "full_attention": config.number("rope_theta", 5e6),
            "sliding_attention": config.number("swa_rope_theta", 1e4),
        }
        fields["rope_parameters"] = {
            kind: {"rope_type": "default", "rope_theta": theta, "partial_rotary_factor": share}
            for kind, theta in thetas.items()
        }
    return dataclasses.replace(config, fields=fields)


NAMES = {
    "model.mtp.**": IGNORE,  # multi-token prediction
    **llama.NAMES,
    **deepseek.ROUTED_NAMES,
    "model.layers.{i}.self_attn.qkv_proj.*": To("layers.{i}.attn.qkv"),  # MiMo-V2.5: all queries, keys, values
    "model.layers.{i}.self_attn.sinks": To("layers.{i}.attn", parameter="sinks"),
    "model.layers.{i}.self_attn.attention_sink_bias": To("layers.{i}.attn", parameter="sinks"),
}

GGUF_NAMES = {
    "blk.{x}.**": IGNORE,
    **qwen2.GGUF_NAMES,
    **deepseek.GGUF_ROUTED_NAMES,
    "blk.{i}.attn_sinks.weight": To("layers.{i}.attn", parameter="sinks"),
}


def gguf_fields(file: GGUFMetadata) -> dict[str, Any]:
    """Return the fields of config.json. Key heads are by layer; a window is `sliding_window_size`."""
    counts = layer_counts(file, "attention.head_count_kv")
    windows = window_fields(file)
    of_kind = dict(zip(windows["layer_types"], counts, strict=True))  # others of a kind would not fit the tensors
    full = of_kind.get("full_attention", counts[0])
    same = {"attention.head_count_kv": full, "attention.value_length": file.raw("attention.key_length")}
    common = common_fields(dataclasses.replace(file, fields={**file.fields, **same}))
    return {
        **common,
        **deepseek.gguf_routed_fields(file, scoring="sigmoid"),
        "norm_topk_prob": file.boolean("expert_weights_norm", True),  # which the converter does not write
        "layer_types": windows["layer_types"],
        "sliding_window_size": windows.get("sliding_window"),
        "swa_num_key_value_heads": of_kind.get("sliding_attention", full),
        "v_head_dim": file.integer("attention.value_length", common["head_dim"]),
        "attention_value_scale": file.scale("attention.value_scale"),
        "add_swa_attention_sink_bias": any(name.endswith("attn_sinks.weight") for name in file.tensors),
        "rope_parameters": rope_parameters_by_layer(file, common["head_dim"], window_theta=1e4),
    }


FAMILY = Family(describe, NAMES, GGUF_NAMES, gguf_fields)
