"""parse_tokenizer: reads a tokenizer.json in steps, between which other threads run.

`tokenizers` reads a file while it holds the GIL: 0.4 s for a vocabulary of 150,000, in which no request and no health
probe is answered. Vocabulary and merges take most of that time, and can be passed separately.
"""

from collections.abc import Mapping
from typing import Any

import msgspec
import tokenizers
from tokenizers import AddedToken, models

_MIN_BYTES = 1 << 20  # shorter files take at most 50 ms
_PASSED_SEPARATELY = frozenset({"type", "vocab", "merges"})
# The other settings of a BPE model, by the names of the library's arguments
_SETTINGS = frozenset(
    {
        "dropout",
        "unk_token",
        "continuing_subword_prefix",
        "end_of_word_suffix",
        "fuse_unk",
        "byte_fallback",
        "ignore_merges",
    }
)


def parse_tokenizer(tokenizer_json: bytes) -> tokenizers.Tokenizer:
    """Parse a tokenizer.json, with the result and the exceptions of `tokenizers.Tokenizer.from_buffer`."""
    if len(tokenizer_json) >= _MIN_BYTES and (tokenizer := _in_steps(tokenizer_json)) is not None:
        return tokenizer
    return tokenizers.Tokenizer.from_buffer(tokenizer_json)


def _in_steps(tokenizer_json: bytes) -> tokenizers.Tokenizer | None:
    """Build the tokenizer in steps; None if the file has unknown parts, which only `tokenizers` can judge."""
    try:
        document = msgspec.json.decode(tokenizer_json)
        model = _bpe(document["model"])
        if model is None:
            return None
        tokenizer = _with_model(model, document)
        return tokenizer if _added(tokenizer) == document["added_tokens"] else None
    except (msgspec.DecodeError, LookupError, TypeError, ValueError, AttributeError):
        return None


def _bpe(model: Mapping[str, Any]) -> models.BPE | None:
    """Build the BPE model of a tokenizer.json; None for a model of another kind, or with unknown settings."""
    if model["type"] != "BPE" or model.keys() - _PASSED_SEPARATELY - _SETTINGS:
        return None
    merges = [(left, right) for left, right in map(_pair, model["merges"])]
    settings = {name: value for name, value in model.items() if name in _SETTINGS and value is not None}
    return models.BPE(vocab=model["vocab"], merges=merges, **settings)


def _pair(merge: str | list[str]) -> list[str]:
    """Return both sides of a BPE merge: newer files have a list, older ones a text such as "t he"."""
    return merge.split(" ") if isinstance(merge, str) else merge


def _with_model(model: models.BPE, document: Mapping[str, Any]) -> tokenizers.Tokenizer:
    """Build the document's tokenizer around `model`. Its added tokens come last: the model determines their ids."""
    empty = {**document["model"], "vocab": {}, "merges": []}
    rest = {**document, "model": empty, "added_tokens": []}
    tokenizer = tokenizers.Tokenizer.from_buffer(msgspec.json.encode(rest))
    tokenizer.model = model
    tokenizer.add_tokens([_added_token(token) for token in document["added_tokens"]])
    return tokenizer


def _added_token(token: Mapping[str, Any]) -> AddedToken:
    return AddedToken(**{name: value for name, value in token.items() if name != "id"})


def _added(tokenizer: tokenizers.Tokenizer) -> list[dict[str, Any]]:
    """Return the tokenizer's added tokens and their ids, in the form of a tokenizer.json."""
    flags = ("single_word", "lstrip", "rstrip", "normalized", "special")
    return [
        {"id": token_id, "content": token.content, **{flag: getattr(token, flag) for flag in flags}}
        for token_id, token in sorted(tokenizer.get_added_tokens_decoder().items())
    ]
