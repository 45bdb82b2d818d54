"""RWKV's vocabularies (tokenizer.ggml.model "rwkv"): the longest token that the rest of a text begins with comes next.

Tokens are bytes. A regular expression that is a trie of all tokens splits a text, spelled in GPT-2's alphabet of bytes,
into tokens, each of which BPE takes whole.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE

from models.errors import CheckpointError

_CONTROL = 3  # tokenizer.ggml.token_type
_ESCAPED = re.compile(rb"\\(x[0-9a-fA-F]{2}|.)", re.DOTALL)
_NAMED = {b"t": b"\t", b"n": b"\n", b"r": b"\r"}
_IN_UTF8 = (*range(0xC0), *range(0xC2, 0xF5))
_PRINTED = (*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100))
# GPT-2's letter of each byte: itself if it is printed, else the next one from U+0100 on.
_LETTERS = {byte: chr(byte) for byte in _PRINTED}
_LETTERS |= {byte: chr(256 + n) for n, byte in enumerate(each for each in range(256) if each not in _LETTERS)}


def spelled_tokens(tokens: Sequence[str], types: Sequence[int]) -> list[str]:
    """Return the tokens in letters for bytes. Files have them with escapes, as in Python's bytes."""
    return [
        token if kind == _CONTROL else spell(_ESCAPED.sub(_unescape, token.encode()))
        for token, kind in zip(tokens, types, strict=True)
    ]


def spell(token: bytes) -> str:
    return "".join(map(_LETTERS.__getitem__, token))


def _unescape(match: re.Match[bytes]) -> bytes:
    name = match[1]
    return bytes([int(name[1:], 16)]) if len(name) == 3 else _NAMED.get(name, name)


def longest_match(vocabulary: dict[str, int], path: Path) -> Tokenizer:
    """Build the tokenizer of `spelled_tokens`. Raises CheckpointError unless every text has tokens."""
    if missing := [byte for byte in _IN_UTF8 if _LETTERS[byte] not in vocabulary]:
        raise CheckpointError(
            f"{path} has no token for the byte 0x{missing[0]:02X}; convert the model again with its tokenizer"
        )
    tokenizer = Tokenizer(BPE(vocabulary, [], ignore_merges=True))
    letters = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokens = pre_tokenizers.Split(Regex(_pattern(_trie(vocabulary))), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([letters, tokens])
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


class _Node(dict[str, "_Node"]):
    """A node of a trie, with the nodes after each letter."""

    is_token = False


def _trie(vocabulary: dict[str, int]) -> _Node:
    root = _Node()
    for token in vocabulary:
        node = root
        for letter in token:
            node = node.setdefault(letter, _Node())
        node.is_token = True
    return root


def _pattern(node: _Node) -> str:
    """Return the expression of all ways through the trie from a node on; greedy, so that the longest one matches."""
    ends = "".join(_quoted(letter) for letter, after in node.items() if not after)
    ways = [
        f"{_quoted(letter)}(?:{_pattern(after)}){'?' if after.is_token else ''}"
        for letter, after in node.items()
        if after
    ]
    return "|".join([*ways, f"[{ends}]"] if ends else ways)


def _quoted(letter: str) -> str:
    return letter if letter.isalnum() or ord(letter) >= 0x80 else f"\\x{ord(letter):02X}"
