"""OPT: LayerNorm, learned positions offset by two rows, ReLU, biases everywhere."""

from models.architecture.attention import AttentionSpec
from models.architecture.decoder import DecoderSpec
from models.architecture.feed_forward import MLPSpec
from models.architecture.layer import LayerSpec, NormPlacement
from models.architecture.norm import NormKind, NormSpec
from models.config.hf_config import HFConfig
from models.families.name_map import To, with_prefixes
from models.families.registry import Family
from models.families.transforms import without_first_two_rows


def describe(config: HFConfig) -> DecoderSpec:
    hidden_size, num_heads = config.integer("hidden_size"), config.integer("num_attention_heads")
    embedding_size = config.integer("word_embed_proj_dim", hidden_size)
    is_pre_norm = config.boolean("do_layer_norm_before", True)  # not in OPT-350M
    head_dim = config.quotient("hidden_size", "num_attention_heads")
    is_affine = config.boolean("layer_norm_elementwise_affine", True)
    norm = NormSpec(NormKind.LAYER, 1e-5, has_weight=is_affine, has_bias=is_affine)
    has_bias = config.boolean("enable_bias", True)
    layer = LayerSpec(
        mixer=AttentionSpec(num_heads, num_heads, head_dim, head_dim**-0.5),
        mlp=MLPSpec(
            intermediate_size=config.integer("ffn_dim"),
            activation=config.activation("activation_function", "relu"),
            is_gated=False,
            has_up_bias=has_bias,
            has_down_bias=has_bias,
        ),
        norm=norm,
        placement=NormPlacement.PRE if is_pre_norm else NormPlacement.AFTER_SUM,
        has_qkv_bias=has_bias,
        has_out_bias=has_bias,
    )
    has_final_norm = is_pre_norm and not config.boolean("_remove_final_layer_norm", False)
    return DecoderSpec(
        vocab_size=config.integer("vocab_size"),
        hidden_size=hidden_size,
        max_position=config.integer("max_position_embeddings", 2048),
        layers=(layer,) * config.num_layers("num_hidden_layers"),
        final_norm=norm if has_final_norm else None,
        has_tied_head=config.boolean("tie_word_embeddings", True),
        embedding_size=None if embedding_size == hidden_size else embedding_size,
        has_learned_positions=True,
    )


NAMES = {
    **with_prefixes(
        ("model.decoder.", "decoder."),
        {
            "embed_tokens.*": To("embed"),
            "embed_positions.*": To("position_embedding", transform=without_first_two_rows),
            "layers.{i}.self_attn_layer_norm.*": To("layers.{i}.attn_norm"),
            "layers.{i}.self_attn.q_proj.*": To("layers.{i}.attn.qkv", "q"),
            "layers.{i}.self_attn.k_proj.*": To("layers.{i}.attn.qkv", "k"),
            "layers.{i}.self_attn.v_proj.*": To("layers.{i}.attn.qkv", "v"),
            "layers.{i}.self_attn.out_proj.*": To("layers.{i}.attn.out"),
            "layers.{i}.final_layer_norm.*": To("layers.{i}.mlp_norm"),
            "layers.{i}.fc1.*": To("layers.{i}.mlp.up"),
            "layers.{i}.fc2.*": To("layers.{i}.mlp.down"),
            "final_layer_norm.*": To("norm"),
            "project_in.*": To("project_in"),
            "project_out.*": To("project_out"),
        },
    ),
    "lm_head.*": To("head"),
}

FAMILY = Family(describe, NAMES, None)
