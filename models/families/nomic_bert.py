"""Nomic BERT: BERT with rotary positions and a gated feed-forward without biases.

Its configuration and tensors have names of their own (those of GPT-2 and FlashAttention), and since transformers 5
those of other models.
"""

from models.config.hf_config import HFConfig
from models.config.rope import rope_spec
from models.errors import UnsupportedModelError
from models.families.name_map import IGNORE, Rules, To, with_prefixes
from models.families.registry import Family
from models.spec import (
    Activation,
    AttentionSpec,
    DecoderSpec,
    LayerSpec,
    MLPSpec,
    NormKind,
    NormPlacement,
    NormSpec,
)

# Fields that other models of the same code set otherwise, and the value that this family implements.
_FIXED = {
    "prenorm": False,
    "parallel_block": False,
    "rotary_emb_interleaved": False,
    "use_rms_norm": False,
    "causal": False,
    "qkv_proj_bias": False,
    "mlp_fc1_bias": False,
    "mlp_fc2_bias": False,
}
_GATED = {"swiglu": Activation.SILU, "silu": Activation.SILU, "geglu": Activation.GELU, "gelu": Activation.GELU}


def describe(config: HFConfig) -> DecoderSpec:
    for name, value in _FIXED.items():
        if config.boolean(name, value) is not value:
            raise UnsupportedModelError(f"{config.source}: {name} is {not value}; supported is {value}")
    for name in ("rotary_scaling_factor", "moe_every_n_layers", "num_experts"):
        if config.raw(name):
            raise UnsupportedModelError(f"{config.source}: {name} is not supported")
    hidden_size = config.integer(config.first("hidden_size", "n_embd"))
    num_heads = config.integer(config.first("num_attention_heads", "n_head"))
    head_dim = hidden_size // num_heads
    norm = NormSpec(
        NormKind.LAYER, config.number(config.first("layer_norm_eps", "layer_norm_epsilon"), 1e-12), has_bias=True
    )
    layer = LayerSpec(
        mixer=AttentionSpec(num_heads, num_heads, head_dim, head_dim**-0.5, is_causal=False),
        rope=rope_spec(
            config,
            head_dim,
            default_theta=config.number("rotary_emb_base", 1000.0),
            default_share=config.number("rotary_emb_fraction", 1.0),
        ),
        mlp=MLPSpec(
            intermediate_size=config.integer(config.first("intermediate_size", "n_inner")),
            activation=_activation(config),
            is_gated=True,
        ),
        norm=norm,
        placement=NormPlacement.AFTER_SUM,
    )
    return DecoderSpec(
        vocab_size=config.integer("vocab_size"),
        hidden_size=hidden_size,
        max_position=config.integer(
            config.first("max_position_embeddings", "max_trained_positions", "n_positions"), 2048
        ),
        layers=(layer,) * config.num_layers(config.first("num_hidden_layers", "n_layer")),
        final_norm=None,
        has_tied_head=False,
        has_head=False,
        embedding_norm=norm,
        num_token_types=config.integer("type_vocab_size", 2),
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
    # as transformers 5 has them in memory
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

FAMILY = Family(describe, with_prefixes(("", "nomic_bert."), _NAMES))
