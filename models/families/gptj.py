"""GPT-J: parallel attention and MLP after one LayerNorm; neighboring rotary pairs; biases in MLP and output layer."""

import dataclasses
from typing import Any

from models.architecture.decoder import DecoderSpec
from models.architecture.layer import LayerSpec, NormPlacement
from models.architecture.positions import RopeSpec
from models.checkpoints.gguf.metadata import GGUFMetadata
from models.config.hf_config import HFConfig
from models.errors import UnsupportedModelError
from models.families import gpt2, llama
from models.families.name_map import IGNORE, To
from models.families.registry import Family
from models.families.transforms import unpermute_k, unpermute_q


def describe(config: HFConfig) -> DecoderSpec:
    spec = gpt2.describe(config)

    def adapt(_: int, layer: LayerSpec) -> LayerSpec:
        return dataclasses.replace(
            layer,
            placement=NormPlacement.PARALLEL_ONE_NORM,
            rope=RopeSpec(_rotary_dim(config, layer), 10000.0),
            has_qkv_bias=False,
            has_out_bias=False,
        )

    if config.boolean("tie_word_embeddings", False):
        raise UnsupportedModelError(f"{config.source}: GPT-J with tie_word_embeddings is not supported")
    return dataclasses.replace(
        spec.map_layers(adapt),
        has_learned_positions=False,
        has_tied_head=False,
        has_head_bias=True,
        max_position=config.integer("n_positions", 2048),
    )


def _rotary_dim(config: HFConfig, layer: LayerSpec) -> int:
    return layer.attention.head_dim if config.is_null("rotary_dim") else config.integer("rotary_dim", 64)


NAMES = {
    "transformer.wte.*": To("embed"),
    "transformer.h.{i}.ln_1.*": To("layers.{i}.attn_norm"),
    "transformer.h.{i}.attn.q_proj.*": To("layers.{i}.attn.qkv", "q", unpermute_q),
    "transformer.h.{i}.attn.k_proj.*": To("layers.{i}.attn.qkv", "k", unpermute_k),
    "transformer.h.{i}.attn.v_proj.*": To("layers.{i}.attn.qkv", "v"),
    "transformer.h.{i}.attn.out_proj.*": To("layers.{i}.attn.out"),
    "transformer.h.{i}.mlp.fc_in.*": To("layers.{i}.mlp.up"),
    "transformer.h.{i}.mlp.fc_out.*": To("layers.{i}.mlp.down"),
    "transformer.ln_f.*": To("norm"),
    "lm_head.*": To("head"),
    "transformer.h.{i}.attn.bias": IGNORE,  # causal masks, not weights
    "transformer.h.{i}.attn.masked_bias": IGNORE,
}

# The gguf package has these names; llama.cpp neither writes nor reads such files.
GGUF_NAMES = {**llama.GGUF_NAMES, "blk.{i}.ffn_up.*": To("layers.{i}.mlp.up")}


def gguf_fields(file: GGUFMetadata) -> dict[str, Any]:
    return {**gpt2.gguf_fields(file), "rotary_dim": file.size("rope.dimension_count"), "tie_word_embeddings": False}


FAMILY = Family(describe, NAMES, GGUF_NAMES, gguf_fields)
