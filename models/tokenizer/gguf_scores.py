"""Scores of a GGUF file's tokens, which the formats of SentencePiece have."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from models.checkpoints.gguf.array import array_values
from models.errors import CheckpointError


def token_scores(metadata: Mapping[str, Any], num_tokens: int, path: Path) -> list[float]:
    """By token id. Raises CheckpointError unless each token has a number."""
    scores = array_values(metadata.get("tokenizer.ggml.scores"))
    if scores is None or len(scores) != num_tokens or not all(isinstance(score, float | int) for score in scores):
        raise CheckpointError(f"{path} has no score for each of its {num_tokens} tokens; fetch it again")
    return scores
