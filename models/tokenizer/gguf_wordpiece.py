"""WordPiece vocabularies of GGUF files (tokenizer.ggml.model "bert"), and the special tokens around an encoder's texts.

A GGUF vocabulary writes the beginning of a word as "▁word" and the rest of one as "word", where the original has "word"
and "##word".
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import WordPiece

from models.errors import CheckpointError

_SPACE, _CONTINUING = "▁", "##"
_CONTROL = 3  # tokenizer.ggml.token_type
_MAX_WORD = 100  # characters; a longer word is unknown, as in BERT's own tokenizer


def original_tokens(tokens: Sequence[str], types: Sequence[int]) -> list[str]:
    """The tokens as BERT's vocab.txt has them."""
    return [
        token if kind == _CONTROL else token.removeprefix(_SPACE) if token.startswith(_SPACE) else _CONTINUING + token
        for token, kind in zip(tokens, types, strict=True)
    ]


def wordpiece(metadata: Mapping[str, Any], vocabulary: dict[str, int], path: Path) -> Tokenizer:
    """vocabulary: of `original_tokens`. Raises CheckpointError if the file does not say which token is unknown."""
    lowercase = bool(metadata.get("tokenizer.ggml.normalizer.lowercase", True))
    strips_accents = bool(metadata.get("tokenizer.ggml.normalizer.strip_accents", lowercase))
    unknown = _special_token(metadata, ("unknown",), "[UNK]", vocabulary, path)
    tokenizer = Tokenizer(WordPiece(vocabulary, unk_token=unknown, max_input_chars_per_word=_MAX_WORD))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase, strip_accents=strips_accents)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(_CONTINUING)
    return tokenizer


def add_encoder_template(
    tokenizer: Tokenizer, metadata: Mapping[str, Any], vocabulary: Mapping[str, int], path: Path
) -> None:
    """Let texts become [CLS] text [SEP], and pairs [CLS] text [SEP] other [SEP] with token types 0 and 1."""
    first = _special_token(metadata, ("cls", "bos"), "[CLS]", vocabulary, path)
    last = _special_token(metadata, ("seperator", "separator", "eos"), "[SEP]", vocabulary, path)  # sic
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{first}:0 $A:0 {last}:0",
        pair=f"{first}:0 $A:0 {last}:0 $B:1 {last}:1",
        special_tokens=[(token, vocabulary[token]) for token in dict.fromkeys((first, last))],
    )


def _special_token(
    metadata: Mapping[str, Any], roles: Sequence[str], usual: str, vocabulary: Mapping[str, int], path: Path
) -> str:
    """The token that the first of `roles` names, else the usual one."""
    by_id: dict[object, str] = {token_id: token for token, token_id in vocabulary.items()}
    for role in roles:
        token = by_id.get(metadata.get(f"tokenizer.ggml.{role}_token_id"))
        if token is not None:
            return token
    if usual not in vocabulary:
        raise CheckpointError(f"{path} names no {roles[0]} token and has no {usual}; convert the model again")
    return usual
