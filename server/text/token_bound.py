"""A lower bound on a text's number of tokens, computed from its bytes: milliseconds, where tokenizing takes seconds.

The bound holds for tokenizers that keep every byte of a text: byte-level BPE, and SentencePiece's BPE with byte
fallback. Each byte is then in one token, and each token is an entry of the vocabulary. Two bounds follow:

- Let w(b) be 1 / (length of the longest entry with the byte b). The weights of a token's bytes add up to at most 1, so
  a text has at least as many tokens as the sum of its bytes' weights.
- A seam is a position where a space follows an ASCII letter. An entry has at most S seams (usually S is 0). A text with
  N seams has at least (N + 1) / (S + 1) tokens, since n tokens meet at n - 1 positions.
"""

import json
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import tokenizers

_METASPACE = "▁"
# Lengths of longest entries are rounded up to these.
_LENGTHS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 256, 512, 1024)
_CHUNK_BYTES = 1 << 19  # processed at a time, with Python's lock held
_ASCII_SPACES = frozenset(b" \t\n\v\f\r\x1c\x1d\x1e\x1f")
_LETTERS_AS_A = bytes(ord("a") if chr(byte).isascii() and chr(byte).isalpha() else byte for byte in range(256))
_SEAM = b"a "
_PRE_TOKENIZERS = frozenset({"ByteLevel", "Split", "Metaspace", "Digits", "Punctuation"})


class TooManyTokens(Exception):
    """Error for a text over a token limit. num_tokens: a lower bound on the text's number of tokens."""

    def __init__(self, num_tokens: int) -> None:
        super().__init__(f"at least {num_tokens} tokens")
        self.num_tokens = num_tokens


@dataclass(frozen=True, slots=True)
class TokenBound:
    """Lower bound on the number of tokens of a text, from the longest vocabulary entries that can cover its bytes."""

    classes: bytes  # byte -> index into `weights`
    weights: tuple[float, ...]
    max_seams: int  # of one vocabulary entry
    has_metaspace: bool  # "▁" means a space
    needs_nfc: bool  # the tokenizer composes characters first

    def at_least(self, text: str, *, enough: int) -> int:
        """Return a lower bound on the number of tokens of `text`. A bound above `enough` is not improved any further.

        The bound holds whether or not control tokens in the text are parsed. Tokens that the tokenizer adds, such as
        BOS, do not count.
        """
        if self.needs_nfc and not unicodedata.is_normalized("NFC", text):
            return 0
        data = (text.replace(_METASPACE, " ") if self.has_metaspace else text).encode()
        num_seams = sum(_num_seams(data, start) for start in range(0, len(data), _CHUNK_BYTES))
        bound = -(-(num_seams + 1) // (self.max_seams + 1)) if data else 0
        return bound if bound > enough else max(bound, self._weight(data))

    def _weight(self, data: bytes) -> int:
        total = 0.0
        for start in range(0, len(data), _CHUNK_BYTES):
            classes = data[start : start + _CHUNK_BYTES].translate(self.classes)
            total += sum(weight * classes.count(index) for index, weight in enumerate(self.weights) if weight)
        return int(total)


def _num_seams(data: bytes, start: int) -> int:
    """Count the positions in one chunk of `data`, from `start` on, where a space follows an ASCII letter."""
    return data[start : start + _CHUNK_BYTES + 1].translate(_LETTERS_AS_A).count(_SEAM)


def find_token_bound(
    tokenizer: tokenizers.Tokenizer, entries: Sequence[bytes], *, is_byte_level: bool
) -> TokenBound | None:
    """Return the TokenBound of a tokenizer; None if the tokenizer may drop or replace text.

    entries: the bytes of each token id. is_byte_level: True for byte-level BPE, False for SentencePiece's "▁" and
    byte fallback.
    """
    normalizer, pre_tokenizer = steps_of(tokenizer.normalizer), steps_of(tokenizer.pre_tokenizer)
    if not _keeps_bytes(tokenizer, normalizer, pre_tokenizer, is_byte_level=is_byte_level):
        return None
    added = tokenizer.get_added_tokens_decoder().values()
    texts = [*entries, *(token.content.encode() for token in added)]
    strips = any(token.lstrip or token.rstrip for token in added)
    known = frozenset(text[0] for text in texts if len(text) == 1)
    return TokenBound(
        *_weights(texts, known, strips=strips),
        max_seams=max([_seams(text) for text in texts] + [_seams(token.content.encode() + b" ") for token in added]),
        has_metaspace=not is_byte_level,
        needs_nfc=any(step["type"] == "NFC" for step in normalizer),
    )


def _keeps_bytes(
    tokenizer: tokenizers.Tokenizer,
    normalizer: Iterable[dict[str, Any]],
    pre_tokenizer: list[dict[str, Any]],
    *,
    is_byte_level: bool,
) -> bool:
    model = tokenizer.model
    if not isinstance(model, tokenizers.models.BPE) or model.continuing_subword_prefix or model.end_of_word_suffix:
        return False
    if any(step["type"] not in _PRE_TOKENIZERS or step.get("behavior") == "Removed" for step in pre_tokenizer):
        return False
    if any(step["type"] == "ByteLevel" for step in pre_tokenizer) is not is_byte_level:
        return False
    if is_byte_level:
        return all(step["type"] == "NFC" for step in normalizer)
    has_byte_pieces = all(tokenizer.token_to_id(f"<0x{byte:02X}>") is not None for byte in range(256))
    return model.byte_fallback and has_byte_pieces and all(map(_writes_metaspace, normalizer))


def _writes_metaspace(step: dict[str, Any]) -> bool:
    if step["type"] == "Replace":
        return (step["pattern"].get("String"), step["content"]) == (" ", _METASPACE)
    return (step["type"], step.get("prepend")) == ("Prepend", _METASPACE)


def steps_of(component: Any) -> list[dict[str, Any]]:
    """Return the steps of a normalizer, pre-tokenizer or decoder of `tokenizers`, with sequences flattened."""
    if component is None:
        return []
    return _flat(json.loads(component.__getstate__()))


def _flat(step: dict[str, Any]) -> list[dict[str, Any]]:
    if step["type"] != "Sequence":
        return [step]
    parts = step.get("normalizers") or step.get("pretokenizers") or step.get("decoders") or []
    return [each for inner in parts for each in _flat(inner)]


def _weights(texts: Sequence[bytes], known: frozenset[int], *, strips: bool) -> tuple[bytes, tuple[float, ...]]:
    """Return the class of each byte value, and the weight of each class.

    A byte weighs nothing if it has no entry of its own, since it may be dropped or share an unknown token with any
    number of neighbors, or if it may be part of white space that a control token strips.
    """
    longest = [0] * 256
    for text in sorted(set(texts), key=len):
        for byte in set(text):
            longest[byte] = len(text)
    classes = bytearray(256)
    for byte in range(256):
        is_stripped = strips and (byte in _ASCII_SPACES or byte >= 0x80)
        if byte in known and not is_stripped and longest[byte] <= _LENGTHS[-1]:
            classes[byte] = 1 + next(i for i, length in enumerate(_LENGTHS) if length >= longest[byte])
    return bytes(classes), (0.0, *(1 / length for length in _LENGTHS))


def _seams(text: bytes) -> int:
    return text.translate(_LETTERS_AS_A).count(_SEAM)
