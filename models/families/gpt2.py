"""GPT-2: LayerNorm, learned positions, multi-head attention, plain MLP, biases everywhere, Conv1D weights."""

from typing import Any

from models.architecture.attention import AttentionSpec
from models.architecture.decoder import DecoderSpec
from models.architecture.feed_forward import MLPSpec
from models.architecture.layer import LayerSpec
from models.architecture.norm import NormKind, NormSpec
from models.checkpoints.gguf.metadata import GGUFMetadata
from models.config.hf_config import HFConfig
from models.families.name_map import IGNORE, To, with_prefixes
from models.families.registry import Family
from models.families.transforms import transpose


def describe(config: HFConfig) -> DecoderSpec:
    hidden_size = config.integer("n_embd")
    num_heads = config.integer("n_head")
    head_dim = config.quotient("n_embd", "n_head")
    base_scale = head_dim**-0.5 if config.boolean("scale_attn_weights", True) else 1.0
    is_scaled_by_depth = config.boolean("scale_attn_by_inverse_layer_idx", False)
    norm = NormSpec(NormKind.LAYER, config.number("layer_norm_epsilon", 1e-5), has_bias=True)
    mlp = MLPSpec(
        intermediate_size=config.integer("n_inner", 4 * hidden_size),
        activation=config.activation("activation_function"),
        is_gated=False,
        has_up_bias=True,
        has_down_bias=True,
    )

    def layer(index: int) -> LayerSpec:
        scale = base_scale / (index + 1) if is_scaled_by_depth else base_scale
        return LayerSpec(
            mixer=AttentionSpec(num_heads, num_heads, head_dim, scale),
            rope=None,
            has_qkv_bias=True,
            has_out_bias=True,
            mlp=mlp,
            norm=norm,
        )

    return DecoderSpec(
        vocab_size=config.integer("vocab_size"),
        hidden_size=hidden_size,
        max_position=config.integer("n_positions", 1024),
        layers=tuple(layer(index) for index in range(config.num_layers("n_layer"))),
        final_norm=norm,
        has_learned_positions=True,
        has_tied_head=config.boolean("tie_word_embeddings", True),
    )


# The hub's files were saved without the "transformer." prefix of later ones.
NAMES = {
    **with_prefixes(
        ("transformer.", ""),
        {
            "wte.*": To("embed"),
            "wpe.*": To("position_embedding"),
            "h.{i}.ln_1.*": To("layers.{i}.attn_norm"),
            "h.{i}.attn.c_attn.*": To("layers.{i}.attn.qkv", transform=transpose),
            "h.{i}.attn.c_proj.*": To("layers.{i}.attn.out", transform=transpose),
            "h.{i}.ln_2.*": To("layers.{i}.mlp_norm"),
            "h.{i}.mlp.c_fc.*": To("layers.{i}.mlp.up", transform=transpose),
            "h.{i}.mlp.c_proj.*": To("layers.{i}.mlp.down", transform=transpose),
            "ln_f.*": To("norm"),
            "h.{i}.attn.bias": IGNORE,  # causal masks, not weights
            "h.{i}.attn.masked_bias": IGNORE,
        },
    ),
    "lm_head.*": To("head"),
}

GGUF_NAMES = {
    "token_embd.*": To("embed"),
    "position_embd.*": To("position_embedding"),
    "blk.{i}.attn_norm.*": To("layers.{i}.attn_norm"),
    "blk.{i}.attn_qkv.*": To("layers.{i}.attn.qkv"),
    "blk.{i}.attn_output.*": To("layers.{i}.attn.out"),
    "blk.{i}.ffn_norm.*": To("layers.{i}.mlp_norm"),
    "blk.{i}.ffn_up.*": To("layers.{i}.mlp.up"),
    "blk.{i}.ffn_down.*": To("layers.{i}.mlp.down"),
    "output_norm.*": To("norm"),
    "output.*": To("head"),
}


def gguf_fields(file: GGUFMetadata) -> dict[str, Any]:
    return {
        "n_embd": file.integer("embedding_length"),
        "n_head": file.integer("attention.head_count"),
        "n_layer": file.num_layers("block_count"),
        "n_inner": file.integer("feed_forward_length"),
        "n_positions": file.integer("context_length"),
        "layer_norm_epsilon": file.number("attention.layer_norm_epsilon"),
        "activation_function": "gelu_new",
    }


FAMILY = Family(describe, NAMES, GGUF_NAMES, gguf_fields)
