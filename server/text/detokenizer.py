"""Detokenizer: converts token ids to text incrementally, in deltas of whole characters."""

from codecs import utf_8_decode
from collections.abc import Iterable

from server.text.tokenizer import Tokenizer


class Detokenizer:
    """Converts one sequence of token ids to text. The cost of an id does not depend on the ids before it.

    Bytes that may start a character are held back until the character is complete or invalid.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        skip_special_tokens: bool = True,
        kept_ids: frozenset[int] = frozenset(),
        continues: bool = True,
    ) -> None:
        """kept_ids: special tokens that are not skipped. continues: the ids continue a prompt, so a space at their
        beginning is part of the text."""
        self._tokenizer = tokenizer
        self._skipped_ids = tokenizer.special_ids - kept_ids if skip_special_tokens else frozenset[int]()
        self._strips_space = tokenizer.strips_space and not continues
        self._pending = b""  # bytes that may start a character

    def push(self, ids: Iterable[int]) -> str:
        """Return the text of the characters that `ids` complete."""
        return "".join([self.push_one(token_id) for token_id in ids])

    def push_one(self, token_id: int) -> str:
        if token_id in self._skipped_ids:
            return ""
        text = None if self._pending else self._tokenizer.token_text(token_id)
        if text is None:
            data = self._pending + self._tokenizer.token_bytes(token_id)
            text, num_decoded = utf_8_decode(data, "replace", False)
            self._pending = data[num_decoded:]
        return self._strip(text) if self._strips_space else text

    def finish(self) -> str:
        """Return pending bytes as U+FFFD. Nothing may be pushed after this call."""
        return self._strip(utf_8_decode(self._pending, "replace", True)[0])

    def _strip(self, text: str) -> str:
        if self._strips_space and text:
            self._strips_space = False
            return text.removeprefix(" ")
        return text


def decode(
    tokenizer: Tokenizer, ids: Iterable[int], *, skip_special_tokens: bool = True, continues: bool = False
) -> str:
    """Return the text of all `ids`, with U+FFFD for invalid UTF-8; the same text as a Detokenizer's joined deltas.

    continues: the ids continue a prompt, so a space at their beginning is part of the text. Ids that are not in the
    vocabulary (a padded output layer has some) have no text.
    """
    detokenizer = Detokenizer(tokenizer, skip_special_tokens=skip_special_tokens, continues=continues)
    return detokenizer.push(ids) + detokenizer.finish()
