"""Falcon: parallel attention and MLP after one LayerNorm (7B) or two (40B), or sequential with ALiBi (RW)."""

from typing import Any

from models.architecture.attention import AttentionSpec
from models.architecture.decoder import DecoderSpec
from models.architecture.feed_forward import MLPSpec
from models.architecture.layer import LayerSpec, NormPlacement
from models.architecture.norm import NormKind, NormSpec
from models.checkpoints.gguf.fields import common_fields
from models.checkpoints.gguf.metadata import GGUFMetadata
from models.config.hf_config import HFConfig
from models.config.rope import rope_spec
from models.families import gpt_neox
from models.families.name_map import To
from models.families.registry import Family
from models.families.transforms import ungroup_qkv
from models.layers.attention.alibi import alibi_slopes


def describe(config: HFConfig) -> DecoderSpec:
    hidden_size, num_heads = config.integer("hidden_size"), config.integer("num_attention_heads")
    head_dim = config.quotient("hidden_size", "num_attention_heads")
    norm = NormSpec(NormKind.LAYER, config.number("layer_norm_epsilon", 1e-5), has_bias=True)
    has_bias = config.boolean("bias", False)
    has_alibi = config.boolean("alibi", False)
    layer = LayerSpec(
        mixer=AttentionSpec(num_heads, _num_kv_heads(config, num_heads), head_dim, head_dim**-0.5, has_alibi=has_alibi),
        mlp=MLPSpec(
            intermediate_size=config.integer("ffn_hidden_size", 4 * hidden_size),
            activation=config.activation("activation", "gelu"),
            is_gated=False,
            has_up_bias=has_bias,
            has_down_bias=has_bias,
        ),
        norm=norm,
        placement=_placement(config),
        rope=None if has_alibi else rope_spec(config, head_dim),
        has_qkv_bias=has_bias,
        has_out_bias=has_bias,
        # the biases are added before the scores are scaled
        alibi_slopes=alibi_slopes(num_heads, scale=head_dim**-0.5) if has_alibi else None,
    )
    return DecoderSpec(
        vocab_size=config.integer("vocab_size"),
        hidden_size=hidden_size,
        max_position=config.integer("max_position_embeddings", 2048),
        layers=(layer,) * config.num_layers("num_hidden_layers"),
        final_norm=norm,
        has_tied_head=config.boolean("tie_word_embeddings", True),
    )


def _num_kv_heads(config: HFConfig, num_heads: int) -> int:
    if config.boolean("new_decoder_architecture", False):
        return config.integer("num_kv_heads", num_heads)
    return 1 if config.boolean("multi_query", True) else num_heads


def _placement(config: HFConfig) -> NormPlacement:
    is_new = config.boolean("new_decoder_architecture", False)
    if not is_new and not config.boolean("parallel_attn", True):
        return NormPlacement.PRE
    num_norms = config.integer("num_ln_in_parallel_attn", 2 if is_new else 1)
    return NormPlacement.PARALLEL if is_new and num_norms == 2 else NormPlacement.PARALLEL_ONE_NORM


NAMES = {
    "transformer.word_embeddings.*": To("embed"),
    "transformer.h.{i}.input_layernorm.*": To("layers.{i}.attn_norm"),
    "transformer.h.{i}.ln_attn.*": To("layers.{i}.attn_norm"),
    "transformer.h.{i}.ln_mlp.*": To("layers.{i}.mlp_norm"),
    "transformer.h.{i}.self_attention.query_key_value.*": To("layers.{i}.attn.qkv", transform=ungroup_qkv),
    "transformer.h.{i}.self_attention.dense.*": To("layers.{i}.attn.out"),
    "transformer.h.{i}.post_attention_layernorm.*": To("layers.{i}.mlp_norm"),
    "transformer.h.{i}.mlp.dense_h_to_4h.*": To("layers.{i}.mlp.up"),
    "transformer.h.{i}.mlp.dense_4h_to_h.*": To("layers.{i}.mlp.down"),
    "transformer.ln_f.*": To("norm"),
    "lm_head.*": To("head"),
}

GGUF_NAMES = {
    **gpt_neox.GGUF_NAMES,
    "blk.{i}.attn_norm.*": To("layers.{i}.mlp_norm"),  # for both sublayers if there is no second norm
    "blk.{i}.attn_norm_2.*": To("layers.{i}.attn_norm"),
}


def gguf_fields(file: GGUFMetadata) -> dict[str, Any]:
    fields = common_fields(file)
    return {
        **fields,
        "ffn_hidden_size": fields["intermediate_size"],
        "bias": fields["attention_bias"],
        "new_decoder_architecture": True,
        "num_kv_heads": fields["num_key_value_heads"],
        "num_ln_in_parallel_attn": 2 if "blk.0.attn_norm_2.weight" in file.tensors else 1,
    }


FAMILY = Family(describe, NAMES, GGUF_NAMES, gguf_fields)
