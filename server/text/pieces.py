"""Cuts a long text where the tokens of the pieces, one after another, are those of the whole.

The place is an ASCII letter, a space, and an ASCII letter. Three things make it exact there:

- No entry of the vocabulary holds a letter before a space, so no merge of BPE goes across; nor does a control token.
- Word patterns look at nothing behind them, and ahead of a word only whether a space follows, as at a text's end.
  So the words before the cut are those of the whole.
- The words behind it are, if one begins there. That is tried on the text around each cut.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import tokenizers

from server.text.token_bound import TokenBound, steps_of

PIECE_SIZE = 1 << 16  # characters, at least; some 30 ms and 6 MB of memory

_PLACE = re.compile(r"(?<=[A-Za-z]) (?=[A-Za-z])")
_AROUND = 128  # characters on both sides of a cut that are split into words
_MAX_TRIES = 8  # cuts that no word begins at, for a piece
_HARMLESS = (r"(?!\S)", r"\s+$", "(?:", "(?i:", r"\$", r"\^")
# What would let a pattern see beyond a word: groups that look around or name something, anchors, back references.
_SEES_FAR = re.compile(r"\(\?|\\[bBAzZGK1-9]|\$|(?<!\[)\^")


@dataclass(frozen=True, slots=True)
class Cuts:
    """How one tokenizer's texts are cut."""

    pre_tokenizer: Any  # None: the tokenizer takes a text as one word
    drops_space: bool  # the tokenizer writes a space before each text, which stands for the one at the cut

    def pieces(self, text: str) -> Iterator[tuple[int, int]]:
        """Start and end of each piece, in order. A text without places to cut is one piece."""
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
        start = max(0, cut - _AROUND)
        words = self.pre_tokenizer.pre_tokenize_str(text[start : cut + _AROUND])
        return any(start + begin == cut for _, (begin, _) in words)


def find_cuts(tokenizer: tokenizers.Tokenizer, bound: TokenBound | None) -> Cuts | None:
    """How texts of `tokenizer` are cut; None where that is not known to be exact."""
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
