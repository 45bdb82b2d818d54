"""Nomic BERT: BERT with rotary positions and a gated feed-forward without biases.

Its configuration and tensors have the names of GPT-2 and FlashAttention, and since transformers 5 names of other
models.
"""

from typing import Any

from models.architecture.decoder import DecoderSpec
from models.architecture.feed_forward import Activation, MLPSpec
from models.architecture.layer import LayerSpec, NormPlacement
from models.checkpoints.gguf.fields import common_fields
from models.checkpoints.gguf.metadata import GGUFMetadata
from models.config.hf_config import HFConfig, quote_value
from models.config.rope import rope_spec
from models.errors import UnsupportedModelError
from models.families import bert
from models.families.encoders import attention_both_ways, encoder, layer_norm
from models.families.name_map import IGNORE, Rules, To, with_prefixes
from models.families.registry import Family

# Fields that other models of the same code set.
_UNSUPPORTED = (
    *("prenorm", "parallel_block", "rotary_emb_interleaved", "use_rms_norm", "causal", "qkv_proj_bias"),
    *("mlp_fc1_bias", "mlp_fc2_bias", "rotary_scaling_factor", "moe_every_n_layers", "num_experts"),
)
_GATED = {"swiglu": Activation.SILU, "silu": Activation.SILU, "geglu": Activation.GELU, "gelu": Activation.GELU}


def describe(config: HFConfig) -> DecoderSpec:
    for name in _UNSUPPORTED:
        if value := config.raw(name):
            raise UnsupportedModelError(f"{config.source}: {name} is {quote_value(value)}, which is not supported")
    names = config.first("hidden_size", "n_embd"), config.first("num_attention_heads", "n_head")
    hidden_size, num_heads = map(config.integer, names)
    attention = attention_both_ways(num_heads, config.quotient(*names))
    layer = LayerSpec(
        mixer=attention,
        rope=rope_spec(
            config,
            attention.head_dim,
            default_theta=config.number("rotary_emb_base", 1000.0),
            default_share=config.number("rotary_emb_fraction", 1.0),
        ),
        mlp=MLPSpec(
            intermediate_size=config.integer(config.first("intermediate_size", "n_inner")),
            activation=_activation(config),
            is_gated=True,
        ),
        norm=layer_norm(config.number(config.first("layer_norm_eps", "layer_norm_epsilon"), 1e-12)),
        placement=NormPlacement.AFTER_SUM,
    )
    return encoder(
        layer,
        config.num_layers(config.first("num_hidden_layers", "n_layer")),
        vocab_size=config.integer("vocab_size"),
        hidden_size=hidden_size,
        max_position=config.integer(
            config.first("max_position_embeddings", "max_trained_positions", "n_positions"), 2048
        ),
        num_token_types=config.integer("type_vocab_size", 2, minimum=0),
    )


def _activation(config: HFConfig) -> Activation:
    name = config.text(config.first("hidden_act", "activation_function"), "swiglu")
    if name not in _GATED:
        raise UnsupportedModelError(
            f"{config.source}: the activation {name!r} is not supported; {', '.join(_GATED)} are"
        )
    return _GATED[name]


_NAMES: Rules = {
    "embeddings.word_embeddings.*": To("embed"),
    "embeddings.token_type_embeddings.*": To("token_type_embedding"),
    "embeddings.position_ids": IGNORE,
    "pooler.**": IGNORE,
    "emb_ln.*": To("embed_norm"),
    "encoder.layers.{i}.attn.Wqkv.*": To("layers.{i}.attn.qkv"),
    "encoder.layers.{i}.attn.out_proj.*": To("layers.{i}.attn.out"),
    "encoder.layers.{i}.norm1.*": To("layers.{i}.attn_norm"),
    "encoder.layers.{i}.mlp.fc12.*": To("layers.{i}.mlp.gate_up", "gate"),
    "encoder.layers.{i}.mlp.fc11.*": To("layers.{i}.mlp.gate_up", "up"),
    "encoder.layers.{i}.mlp.fc2.*": To("layers.{i}.mlp.down"),
    "encoder.layers.{i}.norm2.*": To("layers.{i}.mlp_norm"),
    # the names of transformers 5 in memory
    "embeddings.LayerNorm.*": To("embed_norm"),
    "layers.{i}.self_attn.q_proj.*": To("layers.{i}.attn.qkv", "q"),
    "layers.{i}.self_attn.k_proj.*": To("layers.{i}.attn.qkv", "k"),
    "layers.{i}.self_attn.v_proj.*": To("layers.{i}.attn.qkv", "v"),
    "layers.{i}.self_attn.o_proj.*": To("layers.{i}.attn.out"),
    "layers.{i}.post_attention_layernorm.*": To("layers.{i}.attn_norm"),
    "layers.{i}.mlp.gate_proj.*": To("layers.{i}.mlp.gate_up", "gate"),
    "layers.{i}.mlp.up_proj.*": To("layers.{i}.mlp.gate_up", "up"),
    "layers.{i}.mlp.down_proj.*": To("layers.{i}.mlp.down"),
    "layers.{i}.post_mlp_layernorm.*": To("layers.{i}.mlp_norm"),
}

_GGUF_NAMES: Rules = {
    **{name: to for name, to in bert.GGUF_NAMES.items() if name not in ("position_embd.*", "blk.{i}.ffn_up.*")},
    "blk.{i}.ffn_gate.*": To("layers.{i}.mlp.gate_up", "gate"),
    "blk.{i}.ffn_up.*": To("layers.{i}.mlp.gate_up", "up"),
}


def gguf_fields(file: GGUFMetadata) -> dict[str, Any]:
    bert.refuse_causal(file)
    return {**common_fields(file), "type_vocab_size": bert.gguf_num_token_types(file)}


FAMILY = Family(describe, with_prefixes(("", "nomic_bert."), _NAMES), _GGUF_NAMES, gguf_fields)
