"""TokenBytes: the bytes of text that each token stands for.

Text is the concatenation of its tokens' bytes, decoded as UTF-8 with U+FFFD for invalid bytes. This holds for the two
ways in which tokenizers of language models write bytes, byte-level alphabets and SentencePiece with byte fallback. It
makes streaming exact, since a token's bytes depend on no other token. WordPiece, the tokenizer of encoders, is the
exception: each word gets a space before it, which the original text may not have had.
"""

import re
from collections.abc import Callable
from typing import Any

from tokenizers.decoders import Decoder

from engine.errors import TextUnusable
from server.text.token_bound import steps_of

_BYTE_PIECE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class TokenBytes:
    """A tokenizer's decoder applied to single tokens: `of` returns the bytes of a token.

    `strips_space`: encoding adds a space before the text, which decoding must remove. `is_byte_level`: tokens are
    spelled in GPT-2's byte-level alphabet.
    """

    def __init__(self, decoder: Decoder | None) -> None:
        """Raises TextUnusable if there is no decoder, or if the decoder has an unknown step."""
        self.strips_space = False
        self._replacements: list[tuple[str, str]] = []
        self._has_byte_pieces = False
        self._subword_prefix: str | None = None  # of entries that continue a word; others start one
        self.is_byte_level = False
        if decoder is None:
            raise TextUnusable(
                "the tokenizer has no decoder, so ids cannot be decoded to text; use a complete tokenizer"
            )
        for step in steps_of(decoder):
            self._read(step)
        # Returns the bytes that an entry of the vocabulary adds to a text.
        self.of: Callable[[str], bytes] = _from_byte_level if self.is_byte_level else self._from_pieces

    def _read(self, step: dict[str, Any]) -> None:
        kind = step["type"]
        if kind == "ByteLevel":
            self.is_byte_level = True
        elif kind == "ByteFallback":
            self._has_byte_pieces = True
        elif kind == "Replace" and "String" in step["pattern"]:
            self._replacements.append((step["pattern"]["String"], step["content"]))
        elif kind == "Metaspace":
            self._replacements.append((step["replacement"], " "))
            self.strips_space = step.get("prepend_scheme", "always") != "never"
        elif kind == "Strip" and (step["content"], step["start"], step["stop"]) == (" ", 1, 0):
            self.strips_space = True
        elif kind == "WordPiece":  # without its `cleanup`, which depends on neighbors
            self._subword_prefix, self.strips_space = step["prefix"], True
        elif kind != "Fuse":
            raise TextUnusable(
                f"the tokenizer's decoder has the unknown step {step}; headrace supports ByteLevel, ByteFallback, "
                "Metaspace, WordPiece, Replace of a text, Strip of one leading space, and Fuse"
            )

    def _from_pieces(self, token: str) -> bytes:
        if self._has_byte_pieces and (match := _BYTE_PIECE.fullmatch(token)):
            return bytes([int(match[1], 16)])
        for old, new in self._replacements:
            token = token.replace(old, new)
        if (prefix := self._subword_prefix) is not None:
            token = token.removeprefix(prefix) if token.startswith(prefix) else f" {token}"
        return token.encode()


def _byte_level_alphabet() -> dict[str, int]:
    """Map GPT-2's byte-level alphabet to bytes: printable Latin-1 is itself, the other 68 bytes start at U+0100."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    alphabet = {chr(byte): byte for byte in printable}
    alphabet.update({chr(256 + i): byte for i, byte in enumerate(others)})
    return alphabet


_ALPHABET = _byte_level_alphabet()


def _from_byte_level(token: str) -> bytes:
    """Return the bytes of a token in the byte-level alphabet. A token with other characters is plain text."""
    try:
        return bytes([_ALPHABET[character] for character in token])
    except KeyError:
        return token.encode()
