"""Splitting of long texts into pieces whose tokens, joined, are exactly the tokens of the whole text.

Texts are cut between an ASCII letter and a space that another ASCII letter follows. This is exact for three reasons:

- No entry of the vocabulary has a letter before a space, so no merge of BPE and no control token crosses the cut.
- Word patterns do not look back, and look ahead only for a space after a word, as at the end of a text. So the words
  before the cut are the same as in the whole text.
- The words after the cut are the same if a word begins there, which is tested on the text around each cut.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import tokenizers

from server.text.token_bound import TokenBound, steps_of

PIECE_SIZE = 1 << 16  # characters, at least; about 30 ms and 6 MB of memory

_PLACE = re.compile(r"(?<=[A-Za-z]) (?=[A-Za-z])")
_CONTEXT_CHARS = 128  # on both sides of a cut, which are split into words
_MAX_TRIES = 8  # positions to try for a cut
_HARMLESS = (r"(?!\S)", r"(?<!\s)\s+$", r"\s+$", "(?:", "(?i:", r"\$", r"\^")
# Constructs that may depend on text beyond a word: lookarounds, named groups, anchors and back references
_SEES_FAR = re.compile(r"\(\?|\\[bBAzZGK1-9]|\$|(?<!\[)\^")


@dataclass(frozen=True, slots=True)
class Cuts:
    """The properties of a tokenizer that determine where its texts can be cut."""

    pre_tokenizer: Any  # None: the tokenizer reads a text as one word
    drops_space: bool  # the tokenizer adds a space before each text, which replaces the space at the cut

    def pieces(self, text: str) -> Iterator[tuple[int, int]]:
        """Yield the start and end of each piece of the text, in order. A text that cannot be cut is one piece."""
        start = 0
        while (cut := self._next_cut(text, start + PIECE_SIZE)) is not None:
            yield start, cut
            start = cut + self.drops_space
        yield start, len(text)

    def _next_cut(self, text: str, position: int) -> int | None:
        for _ in range(_MAX_TRIES):
            match = _PLACE.search(text, position)
            if match is None:
                return None
            if self._begins_word(text, match.start()):
                return match.start()
            position = match.end()
        return None

    def _begins_word(self, text: str, cut: int) -> bool:
        if self.pre_tokenizer is None:
            return True
        start = max(0, cut - _CONTEXT_CHARS)
        words = self.pre_tokenizer.pre_tokenize_str(text[start : cut + _CONTEXT_CHARS])
        return any(start + begin == cut for _, (begin, _) in words)


def find_cuts(tokenizer: tokenizers.Tokenizer, bound: TokenBound | None) -> Cuts | None:
    """Return the Cuts of a tokenizer; None if a text's pieces might have other tokens than the whole text."""
    if bound is None or bound.max_seams or tokenizer.model.dropout:
        return None
    pre_tokenizer = steps_of(tokenizer.pre_tokenizer)
    if any(step["type"] not in ("ByteLevel", "Split") or not _sees_one_word(step) for step in pre_tokenizer):
        return None
    drops_space = any(step["type"] == "Prepend" for step in steps_of(tokenizer.normalizer))
    contents = [token.content for token in tokenizer.get_added_tokens_decoder().values()]
    if any(_is_letter(content[:1]) or _is_letter(content[-1:]) for content in contents):
        return None
    has_words = any(step["type"] == "Split" or step.get("use_regex", True) for step in pre_tokenizer)
    return Cuts(tokenizer.pre_tokenizer if has_words else None, drops_space)


def _is_letter(character: str) -> bool:
    return character.isascii() and character.isalpha()


def _sees_one_word(step: dict[str, Any]) -> bool:
    if step["type"] != "Split":
        return True
    if step["behavior"] != "Isolated" or step["invert"]:
        return False
    pattern = step["pattern"].get("Regex", "")
    for text in _HARMLESS:
        pattern = pattern.replace(text, "")
    return _SEES_FAR.search(pattern) is None
