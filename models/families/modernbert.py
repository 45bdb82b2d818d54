"""ModernBERT: an encoder with rotary positions, windows in two of three layers, GeGLU, pre-norms and few biases."""

import dataclasses
from typing import Any

from models.architecture.decoder import DecoderSpec
from models.architecture.feed_forward import MLPSpec
from models.architecture.layer import LayerSpec
from models.architecture.norm import NormSpec
from models.architecture.pooling import ScoreHeadSpec, TokenPooling
from models.checkpoints.gguf.fields import common_fields
from models.checkpoints.gguf.metadata import GGUFMetadata
from models.config.hf_config import HFConfig
from models.config.labels import num_labels
from models.config.layers import kinds_of_layers
from models.config.rope import context_length, ropes_by_type
from models.errors import CheckpointError
from models.families import bert, phi3
from models.families.encoders import attention_both_ways, layer_norm
from models.families.name_map import IGNORE, Rules, To, with_prefixes
from models.families.registry import Family

_SLIDING, _FULL = "sliding_attention", "full_attention"
_POOLINGS = {"cls": TokenPooling.CLS, "mean": TokenPooling.MEAN}


def describe(config: HFConfig) -> DecoderSpec:
    hidden_size, num_heads = config.integer("hidden_size"), config.integer("num_attention_heads")
    num_layers = config.num_layers("num_hidden_layers")
    head_dim = config.quotient("hidden_size", "num_attention_heads")
    norm = _norm(config)
    has_attention_bias, has_mlp_bias = config.boolean("attention_bias", False), config.boolean("mlp_bias", False)
    mlp = MLPSpec(
        intermediate_size=config.integer("intermediate_size"),
        activation=config.activation("hidden_activation", "gelu"),
        is_gated=True,
        has_up_bias=has_mlp_bias,
        has_down_bias=has_mlp_bias,
    )
    # "local_attention" counts both sides: half of it before a token, half of it after, and the token.
    reach = config.integer("local_attention", 128) // 2 + 1
    theta = config.number("global_rope_theta", 160_000.0)
    ropes = ropes_by_type(config, head_dim, window_theta="local_rope_theta", default_theta=theta)
    period = config.integer("global_attn_every_n_layers", 3)
    kinds = kinds_of_layers(config, num_layers, (_SLIDING, _FULL), lambda index: _SLIDING if index % period else _FULL)

    def layer(index: int, kind: str) -> LayerSpec:
        window = reach if kind == _SLIDING else None
        return LayerSpec(
            mixer=attention_both_ways(num_heads, head_dim, window),
            rope=ropes[kind],
            mlp=mlp,
            norm=norm,
            has_qkv_bias=has_attention_bias,
            has_out_bias=has_attention_bias,
            has_attn_norm=index > 0,  # the embeddings' norm is the first layer's
        )

    return DecoderSpec(
        vocab_size=config.integer("vocab_size"),
        hidden_size=hidden_size,
        max_position=context_length(config, 8192),
        layers=tuple(layer(index, kind) for index, kind in enumerate(kinds)),
        final_norm=norm,
        has_tied_head=False,
        has_head=False,
        embedding_norm=norm,
    )


def _norm(config: HFConfig) -> NormSpec:
    return layer_norm(config.number("norm_eps", 1e-5), has_bias=config.boolean("norm_bias", False))


def describe_scores(config: HFConfig) -> DecoderSpec:
    pooling = config.text("classifier_pooling", "cls")
    if pooling not in _POOLINGS:
        raise CheckpointError(f"{config.source}: classifier_pooling is {pooling!r}; it must be 'cls' or 'mean'")
    head = ScoreHeadSpec(
        num_labels(config),
        _POOLINGS[pooling],
        dense_activation=config.activation("classifier_activation", "gelu"),
        has_dense_bias=config.boolean("classifier_bias", False),
        norm=_norm(config),
    )
    return dataclasses.replace(describe(config), score_head=head)


_ENCODER_NAMES: Rules = {
    "embeddings.tok_embeddings.*": To("embed"),
    "embeddings.norm.*": To("embed_norm"),
    "layers.{i}.attn_norm.*": To("layers.{i}.attn_norm"),
    "layers.{i}.attn.Wqkv.*": To("layers.{i}.attn.qkv"),
    "layers.{i}.attn.Wo.*": To("layers.{i}.attn.out"),
    "layers.{i}.mlp_norm.*": To("layers.{i}.mlp_norm"),
    "layers.{i}.mlp.Wi.*": To("layers.{i}.mlp.gate_up"),
    "layers.{i}.mlp.Wo.*": To("layers.{i}.mlp.down"),
    "final_norm.*": To("norm"),
}

NAMES: Rules = {
    **with_prefixes(("", "model."), _ENCODER_NAMES),
    "head.**": IGNORE,  # of masked tokens
    "decoder.**": IGNORE,
}

SCORE_NAMES: Rules = {
    **with_prefixes(("model.",), _ENCODER_NAMES),
    "head.dense.*": To("score_head.dense"),
    "head.norm.*": To("score_head.norm"),
    "classifier.*": To("score_head.out"),
}

_GGUF_NAMES: Rules = {**phi3.GGUF_NAMES, "token_embd_norm.*": To("embed_norm")}


def gguf_fields(file: GGUFMetadata) -> dict[str, Any]:
    bert.refuse_causal(file)
    fields = common_fields(file)
    return {
        **fields,
        "rope_parameters": None,
        "norm_eps": fields["layer_norm_eps"],
        "hidden_activation": file.text("hidden_activation", "gelu"),
        "local_attention": file.integer("attention.sliding_window", 128),
        "global_attn_every_n_layers": file.integer("attention.sliding_window_pattern", 3),
        "global_rope_theta": file.number("rope.freq_base", 160_000.0),
        "local_rope_theta": file.number("rope.freq_base_swa", 10_000.0),
    }


FAMILY = Family(describe, NAMES, _GGUF_NAMES, gguf_fields)
SCORES = Family(describe_scores, SCORE_NAMES)
