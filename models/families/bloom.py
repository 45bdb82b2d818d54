"""BLOOM: LayerNorm on the embeddings, too, ALiBi, a plain MLP four times as wide, biases everywhere."""

from typing import Any

from models.architecture.attention import AttentionSpec
from models.architecture.decoder import DecoderSpec
from models.architecture.feed_forward import Activation, MLPSpec
from models.architecture.layer import LayerSpec
from models.architecture.norm import NormKind, NormSpec
from models.checkpoints.gguf.metadata import GGUFMetadata
from models.config.hf_config import HFConfig
from models.errors import UnsupportedModelError
from models.families import gpt2
from models.families.name_map import To, with_prefixes
from models.families.registry import Family
from models.families.transforms import ungroup_qkv
from models.layers.attention.alibi import alibi_slopes


def describe(config: HFConfig) -> DecoderSpec:
    if config.boolean("apply_residual_connection_post_layernorm", False):
        raise UnsupportedModelError(f"{config.source}: apply_residual_connection_post_layernorm is not supported")
    names = config.first("hidden_size", "n_embed"), config.first("n_head", "num_attention_heads")
    hidden_size, num_heads = map(config.integer, names)
    head_dim = config.quotient(*names)
    norm = NormSpec(NormKind.LAYER, config.number("layer_norm_epsilon", 1e-5), has_bias=True)
    layer = LayerSpec(
        mixer=AttentionSpec(num_heads, num_heads, head_dim, head_dim**-0.5, has_alibi=True),
        mlp=MLPSpec(4 * hidden_size, Activation.GELU_TANH, is_gated=False, has_up_bias=True, has_down_bias=True),
        norm=norm,
        has_qkv_bias=True,
        has_out_bias=True,
        alibi_slopes=alibi_slopes(num_heads),
    )
    return DecoderSpec(
        vocab_size=config.integer("vocab_size"),
        hidden_size=hidden_size,
        max_position=config.integer("seq_length", 2048),  # of training; ALiBi has no limit
        layers=(layer,) * config.num_layers(config.first("n_layer", "num_hidden_layers")),
        final_norm=norm,
        embedding_norm=norm,
        has_tied_head=config.boolean("tie_word_embeddings", True),
    )


NAMES = {
    **with_prefixes(
        ("transformer.", ""),
        {
            "word_embeddings.*": To("embed"),
            "word_embeddings_layernorm.*": To("embed_norm"),
            "h.{i}.input_layernorm.*": To("layers.{i}.attn_norm"),
            "h.{i}.self_attention.query_key_value.*": To("layers.{i}.attn.qkv", transform=ungroup_qkv),
            "h.{i}.self_attention.dense.*": To("layers.{i}.attn.out"),
            "h.{i}.post_attention_layernorm.*": To("layers.{i}.mlp_norm"),
            "h.{i}.mlp.dense_h_to_4h.*": To("layers.{i}.mlp.up"),
            "h.{i}.mlp.dense_4h_to_h.*": To("layers.{i}.mlp.down"),
            "ln_f.*": To("norm"),
        },
    ),
    "lm_head.*": To("head"),
}

GGUF_NAMES = {**gpt2.GGUF_NAMES, "token_embd_norm.*": To("embed_norm")}


def gguf_fields(file: GGUFMetadata) -> dict[str, Any]:
    return {
        "hidden_size": file.integer("embedding_length"),
        "n_head": file.integer("attention.head_count"),
        "n_layer": file.num_layers("block_count"),
        "seq_length": file.integer("context_length"),
        "layer_norm_epsilon": file.number("attention.layer_norm_epsilon"),
    }


FAMILY = Family(describe, NAMES, GGUF_NAMES, gguf_fields)
