"""GPT-NeoX and Pythia: parallel attention and MLP, a LayerNorm for each, partial rotary embedding, biases."""

import dataclasses
from typing import Any

from models.architecture.decoder import DecoderSpec
from models.architecture.feed_forward import MLPSpec
from models.architecture.layer import LayerSpec, NormPlacement
from models.architecture.norm import NormKind, NormSpec
from models.checkpoints.gguf.fields import common_fields
from models.checkpoints.gguf.metadata import GGUFMetadata
from models.config.hf_config import HFConfig
from models.config.rope import rope_spec
from models.families import llama, qwen2
from models.families.name_map import IGNORE, To
from models.families.registry import Family
from models.families.transforms import ungroup_qkv


def describe(config: HFConfig) -> DecoderSpec:
    norm = NormSpec(NormKind.LAYER, config.number("layer_norm_eps", 1e-5), has_bias=True)
    is_parallel = config.boolean("use_parallel_residual", True)
    has_attention_bias = config.boolean("attention_bias", True)
    share_name = config.first("rotary_pct", "partial_rotary_factor")
    mlp = MLPSpec(
        intermediate_size=config.integer("intermediate_size"),
        activation=config.activation("hidden_act", "gelu"),
        is_gated=False,
        has_up_bias=True,
        has_down_bias=True,
    )

    def adapt(_: int, layer: LayerSpec) -> LayerSpec:
        rope = rope_spec(
            dataclasses.replace(config, spelled={"partial_rotary_factor": share_name}),
            layer.attention.head_dim,
            default_theta=config.number("rotary_emb_base", 10000.0),
            default_share=config.number("rotary_pct", 0.25),
        )
        return dataclasses.replace(
            layer,
            norm=norm,
            placement=NormPlacement.PARALLEL if is_parallel else NormPlacement.PRE,
            rope=rope,
            mlp=mlp,
            has_qkv_bias=has_attention_bias,
            has_out_bias=has_attention_bias,
        )

    spec = llama.describe(config.with_fields({"num_key_value_heads": None}))
    return dataclasses.replace(spec.map_layers(adapt), final_norm=norm)


NAMES = {
    "gpt_neox.embed_in.*": To("embed"),
    "gpt_neox.layers.{i}.input_layernorm.*": To("layers.{i}.attn_norm"),
    "gpt_neox.layers.{i}.attention.query_key_value.*": To("layers.{i}.attn.qkv", transform=ungroup_qkv),
    "gpt_neox.layers.{i}.attention.dense.*": To("layers.{i}.attn.out"),
    "gpt_neox.layers.{i}.post_attention_layernorm.*": To("layers.{i}.mlp_norm"),
    "gpt_neox.layers.{i}.mlp.dense_h_to_4h.*": To("layers.{i}.mlp.up"),
    "gpt_neox.layers.{i}.mlp.dense_4h_to_h.*": To("layers.{i}.mlp.down"),
    "gpt_neox.final_layer_norm.*": To("norm"),
    "embed_out.*": To("head"),
    "lm_head.*": To("head"),
    "gpt_neox.layers.{i}.attention.bias": IGNORE,  # causal masks, not weights
    "gpt_neox.layers.{i}.attention.masked_bias": IGNORE,
    "gpt_neox.layers.{i}.attention.rotary_emb.inv_freq": IGNORE,
}

GGUF_NAMES = {
    **qwen2.GGUF_NAMES,  # the converter has ungrouped q, k and v
    "blk.{i}.ffn_up.*": To("layers.{i}.mlp.up"),
}


def gguf_fields(file: GGUFMetadata) -> dict[str, Any]:
    is_parallel = file.boolean("use_parallel_residual", True)
    return {**common_fields(file), "hidden_act": "gelu", "use_parallel_residual": is_parallel}


FAMILY = Family(describe, NAMES, GGUF_NAMES, gguf_fields)
