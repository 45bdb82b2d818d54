"""MPT: LayerNorm without biases, ALiBi, a plain MLP four times as wide, no biases."""

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
from models.families.name_map import To
from models.families.registry import Family
from models.layers.attention.alibi import alibi_slopes


def describe(config: HFConfig) -> DecoderSpec:
    hidden_size, num_heads = config.integer("d_model"), config.integer("n_heads")
    attention = config.section("attn_config")
    _refuse_extras(config, attention)
    head_dim = config.quotient("d_model", "n_heads")
    norm = NormSpec(NormKind.LAYER, config.number("layer_norm_epsilon", 1e-5))
    layer = LayerSpec(
        mixer=AttentionSpec(
            num_heads, num_heads, head_dim, attention.number("softmax_scale", head_dim**-0.5), has_alibi=True
        ),
        mlp=MLPSpec(config.integer("expansion_ratio", 4) * hidden_size, Activation.GELU, is_gated=False),
        norm=norm,
        qkv_limit=attention.number("clip_qkv") if attention.raw("clip_qkv") else None,  # 0 counts as absent
        alibi_slopes=alibi_slopes(num_heads, max_bias=attention.number("alibi_bias_max", 8.0)),
    )
    return DecoderSpec(
        vocab_size=config.integer("vocab_size"),
        hidden_size=hidden_size,
        max_position=config.integer("max_seq_len", 2048),
        layers=(layer,) * config.num_layers("n_layers"),
        final_norm=norm,
        has_tied_head=config.boolean("tie_word_embeddings", True),
    )


def _refuse_extras(config: HFConfig, attention: HFConfig) -> None:
    """Refuse options that transformers' own MPT does not compute."""
    if not attention.boolean("alibi", True):
        raise UnsupportedModelError(f"{config.source}: attn_config.alibi is false; MPT is supported with ALiBi only")
    for name in ("qk_ln", "prefix_lm"):
        if attention.boolean(name, False):
            raise UnsupportedModelError(f"{config.source}: attn_config.{name} is not supported")


NAMES = {
    "transformer.wte.*": To("embed"),
    "transformer.blocks.{i}.norm_1.*": To("layers.{i}.attn_norm"),
    "transformer.blocks.{i}.attn.Wqkv.*": To("layers.{i}.attn.qkv"),
    "transformer.blocks.{i}.attn.out_proj.*": To("layers.{i}.attn.out"),
    "transformer.blocks.{i}.norm_2.*": To("layers.{i}.mlp_norm"),
    "transformer.blocks.{i}.ffn.up_proj.*": To("layers.{i}.mlp.up"),
    "transformer.blocks.{i}.ffn.down_proj.*": To("layers.{i}.mlp.down"),
    "transformer.norm_f.*": To("norm"),
    "lm_head.*": To("head"),
}


def gguf_fields(file: GGUFMetadata) -> dict[str, Any]:
    hidden_size, num_heads = file.integer("embedding_length"), file.integer("attention.head_count")
    if file.integer("attention.head_count_kv", num_heads) != num_heads:
        raise UnsupportedModelError(f"{file.source}: MPT with shared key heads is not supported")
    bias = file.scale("attention.max_alibi_bias")
    return {
        "d_model": hidden_size,
        "n_heads": num_heads,
        "n_layers": file.num_layers("block_count"),
        "max_seq_len": file.integer("context_length"),
        "expansion_ratio": file.integer("feed_forward_length") // hidden_size,
        "layer_norm_epsilon": file.number("attention.layer_norm_epsilon"),
        "attn_config": {
            "alibi": bias is not None,
            "alibi_bias_max": bias,
            "clip_qkv": file.scale("attention.clamp_kqv"),
            "qk_ln": "blk.0.attn_q_norm.weight" in file.tensors,
        },
    }


FAMILY = Family(describe, NAMES, gpt2.GGUF_NAMES, gguf_fields)
