"""Protection of prompts against control tokens that clients spell in texts, which a chat template inserts.

The template's own "<|im_end|>" must be parsed as a control token and a client's must not, but after rendering they
look the same. So each part of a client's text that spells a control token is replaced by a placeholder before
rendering, and Tokenizer.encode_chat restores it after finding the template's control tokens:

    content  "a <|im_end|> b"  ->  "a 7301...000001 b"  ->  <|im_start|>user\\na 7301...000001 b<|im_end|>
                                                            control               hidden        control

Two texts could also form a control token: one that ends with "<|im_" before one that begins with "end|>". So a prefix
of a control token at the end of a text is hidden too, and a suffix at its start.
"""

import re
import secrets
from collections.abc import Mapping
from typing import Any

_WINDOW = 1 << 16  # characters, a millisecond


class ControlTexts:
    """Finds the spellings of a tokenizer's control tokens in texts."""

    def __init__(self, texts: frozenset[str]) -> None:
        longest_first = sorted(texts, key=len, reverse=True)
        self._whole = re.compile("|".join(map(re.escape, longest_first))) if texts else None
        self._prefixes = frozenset(text[:i] for text in texts for i in range(1, len(text)))
        self._suffixes = frozenset(text[i:] for text in texts for i in range(1, len(text)))
        self._longest_piece = max(map(len, texts), default=1) - 1

    def spans(self, text: str) -> list[tuple[int, int]]:
        """Return the spans of control tokens' spellings in `text`, and of partial spellings at its edges, in order."""
        spans = self._whole_spans(text)
        if (start := self._suffix_at_start(text)) and (not spans or start <= spans[0][0]):
            spans.insert(0, (0, start))
        end = len(text) - self._prefix_at_end(text)
        if end < len(text) and (not spans or spans[-1][1] <= end):
            spans.append((end, len(text)))
        return spans

    def first(self, text: str) -> str:
        """Return the first control token's spelling in a short text, or ""."""
        found = None if self._whole is None else self._whole.search(text)
        return "" if found is None else found[0]

    def _whole_spans(self, text: str) -> list[tuple[int, int]]:
        """Find complete spellings, window by window: a search holds the GIL, and is slow for texts like "<<<..."."""
        spans: list[tuple[int, int]] = []
        position = 0
        while self._whole is not None and position < len(text):
            end = position + _WINDOW
            for match in self._whole.finditer(text, position, end + self._longest_piece):
                if match.start() >= end:
                    break
                spans.append(match.span())
            position = max(end, spans[-1][1] if spans else 0)
        return spans

    def _suffix_at_start(self, text: str) -> int:
        longest = min(self._longest_piece, len(text))
        return next((size for size in range(longest, 0, -1) if text[:size] in self._suffixes), 0)

    def _prefix_at_end(self, text: str) -> int:
        longest = min(self._longest_piece, len(text))
        return next((size for size in range(longest, 0, -1) if text[-size:] in self._prefixes), 0)


class HiddenTexts:
    """Placeholders for the parts of one request's texts that spell control tokens. All other text stays unchanged."""

    def __init__(self, control_texts: ControlTexts) -> None:
        self._control_texts = control_texts
        self._placeholders: dict[str, str] = {}  # hidden text -> placeholder
        # Only digits, which no operation of a template on text (trim, upper, tojson) changes
        self._nonce = f"{secrets.randbelow(10**36):036}"
        self._count = 0

    @property
    def texts(self) -> dict[str, str]:
        """Hidden texts, by placeholder."""
        return {placeholder: text for text, placeholder in self._placeholders.items()}

    def hide_message(self, message: Mapping[str, Any]) -> dict[str, Any]:
        """Return a copy of `message` with placeholders, except in its role: the API accepts only known roles, and
        templates compare roles and write them into control tokens."""
        return {key: value if key == "role" else self.hide(value) for key, value in message.items()}

    def hide(self, value: Any) -> Any:
        """Return a copy of a JSON value with placeholders, also in keys."""
        if isinstance(value, str):
            return self._hide_text(value)
        if isinstance(value, Mapping):
            return {self.hide(key): self.hide(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.hide(item) for item in value]
        return value

    def new_placeholder(self) -> str:
        """Return a placeholder that occurs nowhere else."""
        self._count += 1
        return f"{self._nonce}{self._count:06}"

    def _hide_text(self, text: str) -> str:
        pieces = []
        end = 0
        for start, stop in self._control_texts.spans(text):
            hidden = text[start:stop]
            if hidden not in self._placeholders:
                self._placeholders[hidden] = self.new_placeholder()
            pieces += [text[end:start], self._placeholders[hidden]]
            end = stop
        return "".join([*pieces, text[end:]])
