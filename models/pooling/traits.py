"""PoolingTraits: a checkpoint's properties for embedding texts (pooling) or scoring them (classification)."""

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from models.architecture.decoder import DecoderSpec
from models.architecture.pooling import ScoreHeadSpec, TokenPooling
from models.config.hf_config import HFConfig, quote_value
from models.config.labels import labels
from models.errors import CheckpointError, UnsupportedModelError
from models.pooling.scheme import PoolingScheme
from models.pooling.sentence_transformers import MODULES, lowercases_texts, read_scheme

_GGUF_NONE, _GGUF_RANK = 0, 4  # of ARCHITECTURE.pooling_type
_GGUF_POOLINGS = {1: TokenPooling.MEAN, 2: TokenPooling.CLS, 3: TokenPooling.LAST}


class ScoreActivation(enum.StrEnum):
    """The activation of a classifier's scores, unless a request turns it off."""

    IDENTITY = "identity"
    SIGMOID = "sigmoid"
    SOFTMAX = "softmax"

    def __call__(self, scores: torch.Tensor) -> torch.Tensor:
        match self:
            case ScoreActivation.SIGMOID:
                return torch.sigmoid(scores)
            case ScoreActivation.SOFTMAX:
                return F.softmax(scores, dim=-1)
            case ScoreActivation.IDENTITY:
                return scores


@dataclass(frozen=True, slots=True)
class PoolingTraits:
    """A checkpoint's properties for pooling and scoring texts.

    scheme: None if the checkpoint states none. matryoshka: dimensions to which embeddings may be truncated; (): any
    number; None: no truncation.
    """

    is_encoder: bool
    pools_by_default: bool  # it cannot generate, or has a sentence-transformers configuration
    can_generate: bool  # the model has an output layer
    hidden_size: int
    scheme: PoolingScheme | None = None
    refusal: str | None = None  # why texts cannot be pooled, for a model that generates by default
    matryoshka: tuple[int, ...] | None = None
    score_head: ScoreHeadSpec | None = None
    labels: tuple[str, ...] = ()
    activation: ScoreActivation = ScoreActivation.IDENTITY


def is_pooling_model(spec: DecoderSpec, root: Path | None) -> bool:
    """Whether a model pools texts by default: it cannot generate, or it has a sentence-transformers configuration."""
    return not spec.has_head or (root is not None and (root / MODULES).is_file())


def pooling_traits(
    spec: DecoderSpec, config: HFConfig, root: Path | None, gguf_metadata: Mapping[str, Any] | None = None
) -> PoolingTraits:
    """Read a checkpoint's PoolingTraits. root: the model's folder, or None for a GGUF file, which has metadata.

    Raises a ModelError for unsupported modules, and for unsupported poolings unless the model generates by default.
    """
    folder = root if root is not None and (root / MODULES).is_file() else None
    if folder is not None and lowercases_texts(folder):
        raise UnsupportedModelError(
            f"{folder}: do_lower_case in sentence_bert_config.json is true, which is not supported; make the "
            "tokenizer's normalizer do it"
        )
    head = spec.score_head
    scheme = refusal = None
    try:
        if head is None and gguf_metadata is not None:
            scheme = gguf_scheme(gguf_metadata, config.source)
        elif head is None and folder is not None:
            scheme = read_scheme(folder)
    except UnsupportedModelError as error:
        if is_pooling_model(spec, root):
            raise
        refusal = str(error)
    if any(layer.recurrence is not None for layer in spec.layers):
        refusal = f"{config.architecture()} has recurrent layers, and headrace cannot make embeddings of it"
    return PoolingTraits(
        is_encoder=spec.is_encoder,
        pools_by_default=is_pooling_model(spec, root),
        can_generate=spec.has_head,
        hidden_size=spec.hidden_size,
        scheme=scheme,
        refusal=refusal,
        matryoshka=_matryoshka(config, spec.hidden_size),
        score_head=head,
        labels=() if head is None else tuple(labels(config)),
        activation=ScoreActivation.IDENTITY if head is None else _activation(config, head.num_labels),
    )


def gguf_scheme(metadata: Mapping[str, Any], source: str) -> PoolingScheme | None:
    """Return the scheme that ARCHITECTURE.pooling_type in GGUF metadata names, or None if the file has no such field.

    Vectors are normalized, as in llama.cpp; GGUF does not state that. Raises UnsupportedModelError for rerankers.
    """
    key = f"{metadata.get('general.architecture')}.pooling_type"
    kind = metadata.get(key)
    if kind is None or kind == _GGUF_NONE:
        return None
    if kind == _GGUF_RANK:
        raise UnsupportedModelError(f"{source} is a reranker ({key} is {_GGUF_RANK}); serve the model's safetensors")
    if kind not in _GGUF_POOLINGS:
        supported = ", ".join(f"{number} ({pooling.name.lower()})" for number, pooling in _GGUF_POOLINGS.items())
        raise UnsupportedModelError(f"{source}: {key} is {quote_value(kind)}; supported are {supported}")
    return PoolingScheme((_GGUF_POOLINGS[kind],), normalizes=True)


def _matryoshka(config: HFConfig, hidden_size: int) -> tuple[int, ...] | None:
    """Read the fields `matryoshka_dimensions` and `is_matryoshka` as vLLM does; few checkpoints have them."""
    sizes = config.raw("matryoshka_dimensions")
    if sizes is None:
        return () if config.boolean("is_matryoshka", False) else None
    is_list = isinstance(sizes, list) and sizes and all(type(size) is int and size > 0 for size in sizes)
    if not is_list or max(sizes) > hidden_size:
        raise CheckpointError(
            f"{config.source}: matryoshka_dimensions is {quote_value(sizes)}; it must be a list of sizes up to "
            f"{hidden_size}"
        )
    return tuple(sorted(sizes))


def _activation(config: HFConfig, num_labels: int) -> ScoreActivation:
    """Return the activation in the configuration of a CrossEncoder, else the one that fits how the labels were trained.

    Labels that were trained independently get a sigmoid, mutually exclusive labels a softmax.
    """
    stated: Any = config.section("sentence_transformers").raw("activation_fn")
    stated = stated or config.raw("sbert_ce_default_activation_function")
    if stated is not None:
        name = str(stated).rpartition(".")[2].lower()
        if name not in set(ScoreActivation):
            raise UnsupportedModelError(
                f"{config.source}: the activation of its scores is {quote_value(stated)}; supported are "
                f"{', '.join(ScoreActivation)}"
            )
        return ScoreActivation(name)
    match config.text("problem_type", ""):
        case "regression":
            return ScoreActivation.SIGMOID if num_labels == 1 else ScoreActivation.IDENTITY
        case "multi_label_classification":
            return ScoreActivation.SIGMOID
    return ScoreActivation.SIGMOID if num_labels == 1 else ScoreActivation.SOFTMAX
