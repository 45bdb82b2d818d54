"""MPNet: BERT without token types, with a bias by distance in all layers, and with RoBERTa's positions and head."""

import dataclasses

from models.architecture.decoder import DecoderSpec
from models.architecture.positions import RelativeBiasSpec
from models.config.hf_config import HFConfig
from models.errors import UnsupportedModelError
from models.families import bert, roberta
from models.families.name_map import IGNORE, Rules, To, with_prefixes
from models.families.registry import Family

_BIAS = RelativeBiasSpec(num_buckets=32, max_distance=128)  # transformers computes no others


def describe(config: HFConfig) -> DecoderSpec:
    num_buckets = config.integer("relative_attention_num_buckets", _BIAS.num_buckets)
    if num_buckets != _BIAS.num_buckets:
        raise UnsupportedModelError(
            f"{config.source}: relative_attention_num_buckets is {num_buckets}; supported is {_BIAS.num_buckets}"
        )
    return dataclasses.replace(roberta.describe(config), num_token_types=0, relative_bias=_BIAS)


_ENCODER_NAMES: Rules = {
    **roberta.ROBERTA_ENCODER_NAMES,
    "encoder.relative_attention_bias.*": To("relative_bias"),
    "encoder.layer.{i}.attention.attn.q.*": To("layers.{i}.attn.qkv", "q"),
    "encoder.layer.{i}.attention.attn.k.*": To("layers.{i}.attn.qkv", "k"),
    "encoder.layer.{i}.attention.attn.v.*": To("layers.{i}.attn.qkv", "v"),
    "encoder.layer.{i}.attention.attn.o.*": To("layers.{i}.attn.out"),
    **bert.norm_names({"encoder.layer.{i}.attention.LayerNorm": "layers.{i}.attn_norm"}),
    "pooler.**": IGNORE,
}

NAMES: Rules = {**with_prefixes(("", "mpnet."), _ENCODER_NAMES), "lm_head.**": IGNORE}

SCORE_NAMES: Rules = {
    **with_prefixes(("mpnet.",), _ENCODER_NAMES),
    "classifier.dense.*": To("score_head.dense"),
    "classifier.out_proj.*": To("score_head.out"),
}

FAMILY = Family(describe, NAMES)
SCORES = Family(lambda config: bert.with_scores(config, describe(config)), SCORE_NAMES)
