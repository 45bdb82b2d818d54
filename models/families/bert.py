"""BERT: an encoder with learned positions, token types, post-norm layers, biases everywhere."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from models.architecture.decoder import DecoderSpec
from models.architecture.feed_forward import Activation, MLPSpec
from models.architecture.layer import LayerSpec, NormPlacement
from models.architecture.pooling import ScoreHeadSpec, TokenPooling
from models.checkpoints.gguf.fields import common_fields
from models.checkpoints.gguf.metadata import GGUFMetadata
from models.config.hf_config import HFConfig
from models.config.labels import num_labels
from models.errors import UnsupportedModelError
from models.families.encoders import attention_both_ways, encoder, layer_norm
from models.families.name_map import IGNORE, Rules, To, with_prefixes
from models.families.registry import Family
from models.families.transforms import as_rows


def describe(config: HFConfig) -> DecoderSpec:
    """Return the spec of BERT. Families like RoBERTa start from this spec, too."""
    _refuse_decoders(config)
    hidden_size = config.integer("hidden_size")
    layer = LayerSpec(
        mixer=attention_both_ways(
            config.integer("num_attention_heads"), config.quotient("hidden_size", "num_attention_heads")
        ),
        mlp=MLPSpec(
            intermediate_size=config.integer("intermediate_size"),
            activation=config.activation("hidden_act", "gelu"),
            is_gated=False,
            has_up_bias=True,
            has_down_bias=True,
        ),
        norm=layer_norm(config.number("layer_norm_eps", 1e-12)),
        placement=NormPlacement.AFTER_SUM,
        has_qkv_bias=True,
        has_out_bias=True,
    )
    spec = encoder(
        layer,
        config.num_layers("num_hidden_layers"),
        vocab_size=config.integer("vocab_size"),
        hidden_size=hidden_size,
        max_position=config.integer("max_position_embeddings", 512),
        num_token_types=config.integer("type_vocab_size", 2, minimum=0),
    )
    return dataclasses.replace(spec, has_learned_positions=True)


def _refuse_decoders(config: HFConfig) -> None:
    if config.boolean("is_decoder", False):
        raise UnsupportedModelError(f"{config.source}: is_decoder is true, which is not supported for BERT")
    kind = config.text("position_embedding_type", "absolute")
    if kind != "absolute":
        raise UnsupportedModelError(f"{config.source}: position_embedding_type is {kind!r}; supported is 'absolute'")


def with_scores(config: HFConfig, spec: DecoderSpec, activation: Activation = Activation.TANH) -> DecoderSpec:
    """Return `spec` with the usual score head: the first token's state, a dense layer, the output layer."""
    head = ScoreHeadSpec(num_labels(config), TokenPooling.CLS, dense_activation=activation)
    return dataclasses.replace(spec, score_head=head)


def norm_names(names: Mapping[str, str]) -> Rules:
    """Return rules for LayerNorms by their modules' names; checkpoints of 2018 call the parameters gamma and beta."""
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

# Embeddings are pooled from hidden states without the pooler, and masked tokens are not predicted.
NAMES: Rules = {
    **with_prefixes(("", "bert."), {**ENCODER_NAMES, "pooler.**": IGNORE}),
    "cls.**": IGNORE,
}

SCORE_NAMES: Rules = {
    **with_prefixes(("bert.",), ENCODER_NAMES),
    "bert.pooler.dense.*": To("score_head.dense"),
    "classifier.*": To("score_head.out"),
}

GGUF_NAMES: Rules = {
    "token_embd.*": To("embed"),
    "position_embd.*": To("position_embedding"),
    "token_types.*": To("token_type_embedding", transform=as_rows),
    "token_embd_norm.*": To("embed_norm"),
    "blk.{i}.attn_qkv.*": To("layers.{i}.attn.qkv"),
    "blk.{i}.attn_q.*": To("layers.{i}.attn.qkv", "q"),
    "blk.{i}.attn_k.*": To("layers.{i}.attn.qkv", "k"),
    "blk.{i}.attn_v.*": To("layers.{i}.attn.qkv", "v"),
    "blk.{i}.attn_output.*": To("layers.{i}.attn.out"),
    "blk.{i}.attn_output_norm.*": To("layers.{i}.attn_norm"),
    "blk.{i}.ffn_up.*": To("layers.{i}.mlp.up"),
    "blk.{i}.ffn_down.*": To("layers.{i}.mlp.down"),
    "blk.{i}.layer_output_norm.*": To("layers.{i}.mlp_norm"),
}


def gguf_fields(file: GGUFMetadata) -> dict[str, Any]:
    refuse_causal(file)
    return {**common_fields(file), "hidden_act": "gelu", "type_vocab_size": gguf_num_token_types(file)}


def refuse_causal(file: GGUFMetadata) -> None:
    if file.boolean("attention.causal", False):
        raise UnsupportedModelError(f"{file.source}: attention.causal is true, which is not supported for BERT")


def gguf_num_token_types(file: GGUFMetadata) -> int:
    """Return the number of token types; 0 if the file has no embeddings of them, as DistilBERT's files."""
    types = file.tensors.get("token_types.weight")
    if types is None:
        return 0
    return 1 if len(types.shape) == 1 else types.shape[0]


BERT = Family(describe, NAMES, GGUF_NAMES, gguf_fields)
BERT_SCORES = Family(lambda config: with_scores(config, describe(config)), SCORE_NAMES)
