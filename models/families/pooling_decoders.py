"""Decoders without an output layer: base models that make embeddings, and rerankers and classifiers with a score head.

The head scores a text by the state of its last token.
"""

import dataclasses

from models.architecture.decoder import DecoderSpec
from models.architecture.pooling import ScoreHeadSpec, TokenPooling
from models.config.hf_config import HFConfig
from models.config.labels import num_labels
from models.families import llama, mistral, qwen2, qwen3
from models.families.name_map import IGNORE, To
from models.families.registry import Family


def _base(family: Family) -> Family:
    """Return the family of checkpoints saved from the bare model's class, whose names have no prefix."""

    def describe(config: HFConfig) -> DecoderSpec:
        return dataclasses.replace(family.describe(config), has_tied_head=False, has_head=False)

    return Family(describe, {pattern.removeprefix("model."): to for pattern, to in family.names.items()})


def _with_scores(family: Family) -> Family:
    def describe(config: HFConfig) -> DecoderSpec:
        head = ScoreHeadSpec(num_labels(config), TokenPooling.LAST, has_bias=False)
        return dataclasses.replace(family.describe(config), has_tied_head=False, has_head=False, score_head=head)

    return Family(describe, {**family.names, "score.*": To("score_head.out"), "lm_head.*": IGNORE})


LLAMA, LLAMA_SCORES = _base(llama.FAMILY), _with_scores(llama.FAMILY)
MISTRAL, MISTRAL_SCORES = _base(mistral.FAMILY), _with_scores(mistral.FAMILY)
QWEN2, QWEN2_SCORES = _base(qwen2.FAMILY), _with_scores(qwen2.FAMILY)
QWEN3, QWEN3_SCORES = _base(qwen3.FAMILY), _with_scores(qwen3.FAMILY)
