"""read_tokenizer: a tokenizer.json, read in steps between which other threads run.

The library reads it whole with Python's lock held: 0.4 s for a vocabulary of 150,000, in which nobody is answered, nor
any probe. Vocabulary and merges are most of that, and can be given to it apart from the rest.
"""

from collections.abc import Mapping
from typing import Any

import msgspec
import tokenizers
from tokenizers import AddedToken, models

_MIN_BYTES = 1 << 20  # what is shorter is read in some 50 ms
_TAKEN_APART = frozenset({"type", "vocab", "merges"})
# Of a BPE, by the library's names of its arguments.
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


def read_tokenizer(tokenizer_json: bytes) -> tokenizers.Tokenizer:
    """The tokenizer as the library itself reads it; raises what that raises."""
    if len(tokenizer_json) >= _MIN_BYTES and (tokenizer := _in_steps(tokenizer_json)) is not None:
        return tokenizer
    return tokenizers.Tokenizer.from_buffer(tokenizer_json)


def _in_steps(tokenizer_json: bytes) -> tokenizers.Tokenizer | None:
    """None for what is not as expected; the library may know better, or say what is wrong."""
    try:
        document = msgspec.json.decode(tokenizer_json)
        model = _bpe(document["model"])
        if model is None:
            return None
        tokenizer = _around(model, document)
        return tokenizer if _added(tokenizer) == document["added_tokens"] else None
    except (msgspec.DecodeError, LookupError, TypeError, ValueError, AttributeError):
        return None


def _bpe(model: Mapping[str, Any]) -> models.BPE | None:
    """None for a model of another kind, or with what we do not know."""
    if model["type"] != "BPE" or model.keys() - _TAKEN_APART - _SETTINGS:
        return None
    merges = [(left, right) for left, right in map(_pair, model["merges"])]
    settings = {name: value for name, value in model.items() if name in _SETTINGS and value is not None}
    return models.BPE(vocab=model["vocab"], merges=merges, **settings)


def _pair(merge: str | list[str]) -> list[str]:
    """As newer files have it; older ones have a text."""
    return merge.split(" ") if isinstance(merge, str) else merge


def _around(model: models.BPE, document: Mapping[str, Any]) -> tokenizers.Tokenizer:
    """All but the model, and then the model; added tokens last, which look for their ids in it."""
    empty = {**document["model"], "vocab": {}, "merges": []}
    rest = {**document, "model": empty, "added_tokens": []}
    tokenizer = tokenizers.Tokenizer.from_buffer(msgspec.json.encode(rest))
    tokenizer.model = model
    tokenizer.add_tokens([_added_token(token) for token in document["added_tokens"]])
    return tokenizer


def _added_token(token: Mapping[str, Any]) -> AddedToken:
    return AddedToken(**{name: value for name, value in token.items() if name != "id"})


def _added(tokenizer: tokenizers.Tokenizer) -> list[dict[str, Any]]:
    """As a tokenizer.json has them: their ids are those that adding them one by one gave."""
    flags = ("single_word", "lstrip", "rstrip", "normalized", "special")
    return [
        {"id": token_id, "content": token.content, **{flag: getattr(token, flag) for flag in flags}}
        for token_id, token in sorted(tokenizer.get_added_tokens_decoder().items())
    ]
