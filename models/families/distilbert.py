"""DistilBERT: BERT without token types, under other names."""

import dataclasses

from models.architecture.decoder import DecoderSpec
from models.architecture.feed_forward import Activation
from models.config.hf_config import HFConfig
from models.errors import UnsupportedModelError
from models.families import bert
from models.families.name_map import IGNORE, Rules, To, with_prefixes
from models.families.registry import Family

_FIELDS = {
    "hidden_size": "dim",
    "num_attention_heads": "n_heads",
    "intermediate_size": "hidden_dim",
    "num_hidden_layers": "n_layers",
    "hidden_act": "activation",
}


def describe(config: HFConfig) -> DecoderSpec:
    if config.boolean("sinusoidal_pos_embds", False):
        raise UnsupportedModelError(f"{config.source}: sinusoidal_pos_embds is not supported")
    fields = {name: config.raw(own) for name, own in _FIELDS.items()}
    spec = bert.describe(config.with_fields(fields))
    return dataclasses.replace(spec, num_token_types=0)


_ENCODER_NAMES: Rules = {
    "embeddings.word_embeddings.*": To("embed"),
    "embeddings.position_embeddings.*": To("position_embedding"),
    "embeddings.LayerNorm.*": To("embed_norm"),
    "embeddings.position_ids": IGNORE,
    "transformer.layer.{i}.attention.q_lin.*": To("layers.{i}.attn.qkv", "q"),
    "transformer.layer.{i}.attention.k_lin.*": To("layers.{i}.attn.qkv", "k"),
    "transformer.layer.{i}.attention.v_lin.*": To("layers.{i}.attn.qkv", "v"),
    "transformer.layer.{i}.attention.out_lin.*": To("layers.{i}.attn.out"),
    "transformer.layer.{i}.sa_layer_norm.*": To("layers.{i}.attn_norm"),
    "transformer.layer.{i}.ffn.lin1.*": To("layers.{i}.mlp.up"),
    "transformer.layer.{i}.ffn.lin2.*": To("layers.{i}.mlp.down"),
    "transformer.layer.{i}.output_layer_norm.*": To("layers.{i}.mlp_norm"),
}

NAMES: Rules = {
    **with_prefixes(("", "distilbert."), _ENCODER_NAMES),
    "vocab_transform.**": IGNORE,  # of masked tokens
    "vocab_layer_norm.**": IGNORE,
    "vocab_projector.**": IGNORE,
}

SCORE_NAMES: Rules = {
    **with_prefixes(("distilbert.",), _ENCODER_NAMES),
    "pre_classifier.*": To("score_head.dense"),
    "classifier.*": To("score_head.out"),
}

FAMILY = Family(describe, NAMES)
SCORES = Family(lambda config: bert.with_scores(config, describe(config), Activation.RELU), SCORE_NAMES)
