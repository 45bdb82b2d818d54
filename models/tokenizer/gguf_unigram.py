"""Unigram vocabularies of GGUF files (tokenizer.ggml.model "t5"), such as XLM-RoBERTa's (Kudo 2018).

GGUF states the pieces with their scores and the table of characters to replace. Everything else is as in XLM-RoBERTa's
own tokenizer: whitespace only separates words, and each word begins with "▁".
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import Unigram

from models.checkpoints.gguf.array import array_values
from models.errors import CheckpointError
from models.tokenizer.charsmap import gguf_charsmap

_NORMAL, _UNKNOWN, _UNUSED = 1, 2, 5  # tokenizer.ggml.token_type
_SPACE = "▁"
_NEVER_IN_A_WORD = " "  # whitespace separates words


def unigram(metadata: Mapping[str, Any], tokens: Sequence[str], types: Sequence[int], path: Path) -> Tokenizer:
    """Build a Unigram tokenizer.

    Raises CheckpointError if scores or the unknown token are missing, or the table of replacements is damaged.
    """
    scores = token_scores(metadata, len(tokens), path)
    unknown = next((i for i, kind in enumerate(types) if kind == _UNKNOWN), None)
    if unknown is None:
        raise CheckpointError(f"{path} names no unknown token; convert the model again with its tokenizer")
    tokenizer = Tokenizer(Unigram(_pieces(tokens, types, scores), unk_id=unknown, byte_fallback=False))
    charsmap = gguf_charsmap(metadata.get("tokenizer.ggml.precompiled_charsmap"), path)
    if charsmap:
        tokenizer.normalizer = normalizers.Precompiled(charsmap)
    scheme = "always" if metadata.get("tokenizer.ggml.add_space_prefix", True) else "never"
    words = pre_tokenizers.Metaspace(replacement=_SPACE, prepend_scheme=scheme, split=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), words])
    tokenizer.decoder = decoders.Metaspace(replacement=_SPACE, prepend_scheme=scheme)
    return tokenizer


def _pieces(tokens: Sequence[str], types: Sequence[int], scores: Sequence[float]) -> list[tuple[str, float]]:
    """Return the vocabulary's pieces with their scores, by id.

    Unused pieces are spelled so that no text contains them. Their score is that of a normal piece, since the lowest
    score decides what an unknown character costs.
    """
    lowest = min((score for score, kind in zip(scores, types, strict=True) if kind == _NORMAL), default=0.0)
    return [
        (_NEVER_IN_A_WORD + token, lowest) if kind == _UNUSED else (token, score)
        for token, score, kind in zip(tokens, scores, types, strict=True)
    ]


def token_scores(metadata: Mapping[str, Any], num_tokens: int, path: Path) -> list[float]:
    """Return the SentencePiece score of each token, by id. Raises CheckpointError if one is missing."""
    scores = array_values(metadata.get("tokenizer.ggml.scores"))
    if scores is None or len(scores) != num_tokens or not all(isinstance(score, float | int) for score in scores):
        raise CheckpointError(f"{path} has no score for each of its {num_tokens} tokens; fetch it again")
    return scores
