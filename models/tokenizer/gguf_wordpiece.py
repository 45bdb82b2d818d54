"""WordPiece vocabularies of GGUF files (tokenizer.ggml.model "bert").

A GGUF vocabulary writes the beginning of a word as "▁word" and its rest as "word"; the original has "word" and
"##word".
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import WordPiece

from models.tokenizer.gguf_templates import special_token

_SPACE, _CONTINUING = "▁", "##"
_CONTROL = 3  # tokenizer.ggml.token_type
_MAX_WORD = 100  # characters; a longer word is unknown, as in BERT's own tokenizer


def original_tokens(tokens: Sequence[str], types: Sequence[int]) -> list[str]:
    """Return the tokens as spelled in BERT's vocab.txt, with "##" before the rest of a word."""
    return [
        token if kind == _CONTROL else token.removeprefix(_SPACE) if token.startswith(_SPACE) else _CONTINUING + token
        for token, kind in zip(tokens, types, strict=True)
    ]


def wordpiece(metadata: Mapping[str, Any], vocabulary: dict[str, int], path: Path) -> Tokenizer:
    """Build a WordPiece tokenizer for `original_tokens`. Raises CheckpointError if the unknown token is missing."""
    lowercase = bool(metadata.get("tokenizer.ggml.normalizer.lowercase", True))
    strips_accents = bool(metadata.get("tokenizer.ggml.normalizer.strip_accents", lowercase))
    unknown = special_token(metadata, ("unknown",), "[UNK]", vocabulary, path)
    tokenizer = Tokenizer(WordPiece(vocabulary, unk_token=unknown, max_input_chars_per_word=_MAX_WORD))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase, strip_accents=strips_accents)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(_CONTINUING)
    return tokenizer
