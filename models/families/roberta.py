"""RoBERTa, XLM-RoBERTa and CamemBERT: BERT with positions that are stored from the third row on."""

import dataclasses

from models.architecture.decoder import DecoderSpec
from models.config.hf_config import HFConfig
from models.errors import UnsupportedModelError
from models.families import bert
from models.families.name_map import IGNORE, Rules, To, with_prefixes
from models.families.registry import Family
from models.families.transforms import without_first_two_rows


def describe(config: HFConfig) -> DecoderSpec:
    """Positions are counted from the padding's id + 1."""
    spec = bert.describe(config)
    padding = config.integer("pad_token_id", 1, minimum=0)
    if padding != 1:
        raise UnsupportedModelError(f"{config.source}: pad_token_id is {padding}; supported is 1, as in all RoBERTas")
    return dataclasses.replace(spec, max_position=spec.max_position - 2)


_ENCODER_NAMES: Rules = {
    **bert.ENCODER_NAMES,
    "embeddings.position_embeddings.*": To("position_embedding", transform=without_first_two_rows),
}

NAMES: Rules = {
    **with_prefixes(("", "roberta."), {**_ENCODER_NAMES, "pooler.**": IGNORE}),
    "lm_head.**": IGNORE,
}

SCORE_NAMES: Rules = {
    **with_prefixes(("roberta.",), {**_ENCODER_NAMES, "pooler.**": IGNORE}),
    "classifier.dense.*": To("score_head.dense"),
    "classifier.out_proj.*": To("score_head.out"),
}

ROBERTA = Family(describe, NAMES)
ROBERTA_SCORES = Family(lambda config: bert.with_scores(config, describe(config)), SCORE_NAMES)
