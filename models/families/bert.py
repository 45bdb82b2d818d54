"""BERT: an encoder with learned positions, token types, norms after the sums, biases everywhere."""

import dataclasses
from collections.abc import Mapping

from models.config.hf_config import HFConfig
from models.config.labels import num_labels
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
    ScoreHeadSpec,
    TokenPooling,
)


def describe(config: HFConfig) -> DecoderSpec:
    """RoBERTa and its kin start from this, too."""
    _refuse_decoders(config)
    hidden_size, num_heads = config.integer("hidden_size"), config.integer("num_attention_heads")
    norm = NormSpec(NormKind.LAYER, config.number("layer_norm_eps", 1e-12), has_bias=True)
    head_dim = hidden_size // num_heads
    layer = LayerSpec(
        mixer=AttentionSpec(num_heads, num_heads, head_dim, head_dim**-0.5, is_causal=False),
        mlp=MLPSpec(
            intermediate_size=config.integer("intermediate_size"),
            activation=config.activation("hidden_act", "gelu"),
            is_gated=False,
            has_up_bias=True,
            has_down_bias=True,
        ),
        norm=norm,
        placement=NormPlacement.AFTER_SUM,
        has_qkv_bias=True,
        has_out_bias=True,
    )
    return DecoderSpec(
        vocab_size=config.integer("vocab_size"),
        hidden_size=hidden_size,
        max_position=config.integer("max_position_embeddings", 512),
        layers=(layer,) * config.num_layers("num_hidden_layers"),
        final_norm=None,
        has_tied_head=False,
        has_head=False,
        has_learned_positions=True,
        embedding_norm=norm,
        num_token_types=config.integer("type_vocab_size", 2),
    )


def _refuse_decoders(config: HFConfig) -> None:
    if config.boolean("is_decoder", False):
        raise UnsupportedModelError(f"{config.source}: is_decoder is true, which is supported for no kind of BERT")
    kind = config.text("position_embedding_type", "absolute")
    if kind != "absolute":
        raise UnsupportedModelError(f"{config.source}: position_embedding_type is {kind!r}; supported is 'absolute'")


def with_scores(config: HFConfig, spec: DecoderSpec) -> DecoderSpec:
    """`spec` with the usual head: scores of the first token's state, after a dense layer with tanh."""
    head = ScoreHeadSpec(num_labels(config), TokenPooling.CLS, dense_activation=Activation.TANH)
    return dataclasses.replace(spec, score_head=head)


def norm_names(names: Mapping[str, str]) -> Rules:
    """Rules for LayerNorms by the names of their modules, which in files of 2018 have a gamma and a beta."""
    rules: dict[str, To | tuple[To, ...] | None] = {}
    for pattern, module in names.items():
        rules |= {
            f"{pattern}.gamma": To(module, parameter="weight"),
            f"{pattern}.beta": To(module, parameter="bias"),
            f"{pattern}.*": To(module),
        }
    return rules


ENCODER_NAMES: Rules = {
    "embeddings.word_embeddings.*": To("embed"),
    "embeddings.position_embeddings.*": To("position_embedding"),
    "embeddings.token_type_embeddings.*": To("token_type_embedding"),
    "embeddings.position_ids": IGNORE,
    "encoder.layer.{i}.attention.self.query.*": To("layers.{i}.attn.qkv", "q"),
    "encoder.layer.{i}.attention.self.key.*": To("layers.{i}.attn.qkv", "k"),
    "encoder.layer.{i}.attention.self.value.*": To("layers.{i}.attn.qkv", "v"),
    "encoder.layer.{i}.attention.output.dense.*": To("layers.{i}.attn.out"),
    "encoder.layer.{i}.intermediate.dense.*": To("layers.{i}.mlp.up"),
    "encoder.layer.{i}.output.dense.*": To("layers.{i}.mlp.down"),
    **norm_names(
        {
            "embeddings.LayerNorm": "embed_norm",
            "encoder.layer.{i}.attention.output.LayerNorm": "layers.{i}.attn_norm",
            "encoder.layer.{i}.output.LayerNorm": "layers.{i}.mlp_norm",
        }
    ),
}

# Embeddings are pooled from hidden states, and the head of masked tokens predicts nothing here.
NAMES: Rules = {
    **with_prefixes(("", "bert."), {**ENCODER_NAMES, "pooler.**": IGNORE}),
    "cls.**": IGNORE,
}

SCORE_NAMES: Rules = {
    **with_prefixes(("bert.",), ENCODER_NAMES),
    "bert.pooler.dense.*": To("score_head.dense"),
    "classifier.*": To("score_head.out"),
}

BERT = Family(describe, NAMES)
BERT_SCORES = Family(lambda config: with_scores(config, describe(config)), SCORE_NAMES)
