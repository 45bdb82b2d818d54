"""Llama 2 and 3, SmolLM2: RMSNorm, rotary positions, grouped-query attention, gated MLP."""

from dataclasses import dataclass

from models.architecture.attention import AttentionSpec
from models.architecture.decoder import DecoderSpec
from models.architecture.feed_forward import MLPSpec
from models.architecture.layer import LayerSpec
from models.architecture.norm import NormKind, NormSpec
from models.config.hf_config import HFConfig
from models.config.rope import context_length, rope_spec
from models.errors import CheckpointError
from models.families.name_map import IGNORE, To
from models.families.registry import Family
from models.families.transforms import unpermute_k, unpermute_q, unpermute_qkv


@dataclass(frozen=True, slots=True)
class Defaults:
    """A family's defaults for fields that config.json leaves out."""

    head_dim: int | None = None  # None: hidden size / heads
    rope_theta: float = 10000.0
    rotary_share: float = 1.0  # of each head
    eps: float = 1e-6
    has_attention_bias: bool = False
    activation: str | None = None  # None: required in config.json
    has_tied_head: bool = False


def describe(config: HFConfig, defaults: Defaults = Defaults()) -> DecoderSpec:
    """Return the spec of Llama. Most other families start from this spec and replace what differs."""
    layer = describe_layer(config, defaults)
    return DecoderSpec(
        vocab_size=config.integer("vocab_size"),
        hidden_size=config.integer("hidden_size"),
        max_position=context_length(config, 2048),
        layers=(layer,) * config.num_layers("num_hidden_layers"),
        final_norm=layer.norm,
        has_tied_head=config.boolean("tie_word_embeddings", defaults.has_tied_head),
    )


def describe_layer(config: HFConfig, defaults: Defaults = Defaults(), layer_type: str = "full_attention") -> LayerSpec:
    """Return the spec of Llama's layers. layer_type: whose rotary parameters are read, if each type has its own."""
    attention = _attention(config, defaults)
    has_attention_bias = config.boolean("attention_bias", defaults.has_attention_bias)
    return LayerSpec(
        mixer=attention,
        rope=rope_spec(
            config,
            attention.head_dim,
            default_theta=defaults.rope_theta,
            default_share=defaults.rotary_share,
            layer_type=layer_type,
        ),
        has_qkv_bias=has_attention_bias,
        has_out_bias=has_attention_bias,
        mlp=MLPSpec(
            intermediate_size=config.integer("intermediate_size"),
            activation=config.activation("hidden_act", defaults.activation),
            is_gated=True,
            has_up_bias=config.boolean("mlp_bias", False),
            has_down_bias=config.boolean("mlp_bias", False),
        ),
        norm=NormSpec(NormKind.RMS, config.number("rms_norm_eps", defaults.eps)),
    )


def _attention(config: HFConfig, defaults: Defaults) -> AttentionSpec:
    num_heads = config.integer("num_attention_heads")
    num_kv_heads = config.integer("num_key_value_heads", num_heads)
    if num_heads % num_kv_heads:
        name = config.spelling("num_key_value_heads")
        raise CheckpointError(
            f"{config.source}: {name} {num_kv_heads} does not divide num_attention_heads {num_heads}; {config.remedy}"
        )
    head_dim = config.integer("head_dim", defaults.head_dim or _divided_size(config))
    return AttentionSpec(num_heads, num_kv_heads, head_dim, scale=head_dim**-0.5)


def _divided_size(config: HFConfig) -> int | None:
    """Return the head size that a configuration without `head_dim` means."""
    if config.has("head_dim"):
        return None
    return config.quotient("hidden_size", "num_attention_heads", remedy=f"state head_dim, or {config.remedy}")


NAMES = {
    "model.embed_tokens.*": To("embed"),
    "model.layers.{i}.input_layernorm.*": To("layers.{i}.attn_norm"),
    "model.layers.{i}.self_attn.q_proj.*": To("layers.{i}.attn.qkv", "q"),
    "model.layers.{i}.self_attn.k_proj.*": To("layers.{i}.attn.qkv", "k"),
    "model.layers.{i}.self_attn.v_proj.*": To("layers.{i}.attn.qkv", "v"),
    "model.layers.{i}.self_attn.o_proj.*": To("layers.{i}.attn.out"),
    "model.layers.{i}.post_attention_layernorm.*": To("layers.{i}.mlp_norm"),
    "model.layers.{i}.mlp.gate_proj.*": To("layers.{i}.mlp.gate_up", "gate"),
    "model.layers.{i}.mlp.up_proj.*": To("layers.{i}.mlp.gate_up", "up"),
    "model.layers.{i}.mlp.down_proj.*": To("layers.{i}.mlp.down"),
    "model.norm.*": To("norm"),
    "lm_head.*": To("head"),
    "model.layers.{i}.self_attn.rotary_emb.inv_freq": IGNORE,  # old checkpoints; computed from the config
}

GGUF_NAMES = {
    "token_embd.*": To("embed"),
    "blk.{i}.attn_norm.*": To("layers.{i}.attn_norm"),
    "blk.{i}.attn_q.*": To("layers.{i}.attn.qkv", "q", unpermute_q),
    "blk.{i}.attn_k.*": To("layers.{i}.attn.qkv", "k", unpermute_k),
    "blk.{i}.attn_v.*": To("layers.{i}.attn.qkv", "v"),
    "blk.{i}.attn_qkv.*": To("layers.{i}.attn.qkv", transform=unpermute_qkv),
    "blk.{i}.attn_output.*": To("layers.{i}.attn.out"),
    "blk.{i}.ffn_norm.*": To("layers.{i}.mlp_norm"),
    "blk.{i}.ffn_gate.*": To("layers.{i}.mlp.gate_up", "gate"),
    "blk.{i}.ffn_up.*": To("layers.{i}.mlp.gate_up", "up"),
    "blk.{i}.ffn_down.*": To("layers.{i}.mlp.down"),
    "output_norm.*": To("norm"),
    "output.*": To("head"),
    "rope_freqs.weight": IGNORE,  # part of the config: see models/checkpoints/gguf/rope.py
    "rope_factors_long.weight": IGNORE,
    "rope_factors_short.weight": IGNORE,
    "blk.{i}.attn_rot_embd": IGNORE,  # old files; computed from the config
}

FAMILY = Family(describe, NAMES, GGUF_NAMES)
