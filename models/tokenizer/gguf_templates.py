"""Special tokens around texts for encoders in GGUF files, whose metadata name them by role."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, processors

from models.errors import CheckpointError

_FIRST, _LAST = ("cls", "bos"), ("seperator", "separator", "eos")  # sic


def add_encoder_template(
    tokenizer: Tokenizer, metadata: Mapping[str, Any], vocabulary: Mapping[str, int], path: Path
) -> None:
    """Make texts [CLS] text [SEP], and pairs [CLS] text [SEP] other [SEP] with token types 0 and 1."""
    first = special_token(metadata, _FIRST, "[CLS]", vocabulary, path)
    last = special_token(metadata, _LAST, "[SEP]", vocabulary, path)
    _surround(tokenizer, f"{first}:0 $A:0 {last}:0", f"$B:1 {last}:1", vocabulary, first, last)


def add_roberta_template(
    tokenizer: Tokenizer, metadata: Mapping[str, Any], vocabulary: Mapping[str, int], path: Path
) -> None:
    """Make texts <s> text </s>, and pairs <s> text </s></s> other </s>; RoBERTa has no token types."""
    first = special_token(metadata, _FIRST, "<s>", vocabulary, path)
    last = special_token(metadata, _LAST, "</s>", vocabulary, path)
    _surround(tokenizer, f"{first} $A {last}", f"{last} $B {last}", vocabulary, first, last)


def _surround(tokenizer: Tokenizer, single: str, other: str, vocabulary: Mapping[str, int], *special: str) -> None:
    """Set the template `single` for a text, followed by `other` for a pair."""
    tokenizer.post_processor = processors.TemplateProcessing(
        single=single,
        pair=f"{single} {other}",
        special_tokens=[(token, vocabulary[token]) for token in dict.fromkeys(special)],
    )


def special_token(
    metadata: Mapping[str, Any], roles: Sequence[str], default: str, vocabulary: Mapping[str, int], path: Path
) -> str:
    """Return the token that the first of `roles` names, else `default`. Raises CheckpointError if there is neither."""
    by_id: dict[object, str] = {token_id: token for token, token_id in vocabulary.items()}
    for role in roles:
        token = by_id.get(metadata.get(f"tokenizer.ggml.{role}_token_id"))
        if token is not None:
            return token
    if default not in vocabulary:
        raise CheckpointError(f"{path} names no {roles[0]} token and has no {default}; convert the model again")
    return default
