"""BitNet b1.58: Llama with norms before the last matrix of attention and of the MLP."""

import dataclasses

from models.architecture.decoder import DecoderSpec
from models.architecture.layer import LayerSpec
from models.config.hf_config import HFConfig
from models.families import llama, qwen2
from models.families.name_map import To
from models.families.registry import Family


def describe(config: HFConfig) -> DecoderSpec:
    def adapt(_: int, layer: LayerSpec) -> LayerSpec:
        mlp = dataclasses.replace(layer.dense_mlp, inner_norm=layer.norm, has_up_bias=False, has_down_bias=False)
        return dataclasses.replace(layer, heads_norm=layer.norm, mlp=mlp)

    return llama.describe(config, llama.Defaults(rope_theta=500000.0, eps=1e-5, activation="relu2")).map_layers(adapt)


NAMES = {
    **llama.NAMES,
    "model.layers.{i}.self_attn.attn_sub_norm.*": To("layers.{i}.attn.heads_norm"),
    "model.layers.{i}.mlp.ffn_sub_norm.*": To("layers.{i}.mlp.inner_norm"),
}

# The activation of files, which do not state it, is llama.cpp's: SiLU, as `common_fields` assumes.
GGUF_NAMES = {
    **qwen2.GGUF_NAMES,
    "blk.{i}.attn_sub_norm.*": To("layers.{i}.attn.heads_norm"),
    "blk.{i}.ffn_sub_norm.*": To("layers.{i}.mlp.inner_norm"),
}

FAMILY = Family(describe, NAMES, GGUF_NAMES)
