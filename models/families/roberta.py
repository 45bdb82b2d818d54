"""RoBERTa, XLM-RoBERTa and CamemBERT: BERT with position embeddings offset by two rows."""

import dataclasses
from typing import Any

from models.architecture.decoder import DecoderSpec
from models.checkpoints.gguf.metadata import GGUFMetadata
from models.config.hf_config import HFConfig
from models.errors import UnsupportedModelError
from models.families import bert
from models.families.name_map import IGNORE, Rules, To, with_prefixes
from models.families.registry import Family
from models.families.transforms import as_rows, without_first_two_rows


def describe(config: HFConfig) -> DecoderSpec:
    """Describe RoBERTa, whose position embeddings start at the padding id + 1."""
    spec = bert.describe(config)
    padding = config.integer("pad_token_id", 1, minimum=0)
    if padding != 1:
        raise UnsupportedModelError(f"{config.source}: pad_token_id is {padding}; supported is 1, as in all RoBERTas")
    return dataclasses.replace(spec, max_position=spec.max_position - 2)


ROBERTA_ENCODER_NAMES: Rules = {
    **bert.ENCODER_NAMES,
    "embeddings.position_embeddings.*": To("position_embedding", transform=without_first_two_rows),
}

NAMES: Rules = {
    **with_prefixes(("", "roberta."), {**ROBERTA_ENCODER_NAMES, "pooler.**": IGNORE}),
    "lm_head.**": IGNORE,
}

SCORE_NAMES: Rules = {
    **with_prefixes(("roberta.",), {**ROBERTA_ENCODER_NAMES, "pooler.**": IGNORE}),
    "classifier.dense.*": To("score_head.dense"),
    "classifier.out_proj.*": To("score_head.out"),
}

_GGUF_SCORE_NAMES: Rules = {
    **bert.GGUF_NAMES,
    "cls.output.weight": To("score_head.out", transform=as_rows),
    "cls.output.bias": To("score_head.out", parameter="bias"),
    "cls.*": To("score_head.dense"),
}


def _gguf_score_fields(file: GGUFMetadata) -> dict[str, Any]:
    """Return the config.json fields of rerankers and classifiers.

    Raises UnsupportedModelError for a file without the score head's dense layer, such as one converted from BERT.
    """
    if "cls.weight" not in file.tensors:
        raise UnsupportedModelError(
            f"{file.source}: the file has a score head without its first layer (cls.weight), which llama.cpp's "
            "converter leaves out of BERT; serve the model's safetensors"
        )
    fields = bert.gguf_fields(file)
    names = file.raw("classifier.output_labels")
    shape = file.tensors["cls.output.weight"].shape
    return {
        **fields,
        "max_position_embeddings": fields["max_position_embeddings"] + 2,  # GGUF does not count the two unused rows
        "num_labels": 1 if len(shape) == 1 else shape[0],
        "id2label": dict(enumerate(names)) if isinstance(names, list) else None,
    }


ROBERTA = Family(describe, NAMES)
ROBERTA_SCORES = Family(
    lambda config: bert.with_scores(config, describe(config)), SCORE_NAMES, _GGUF_SCORE_NAMES, _gguf_score_fields
)
