"""TextTokens: the tokens of an answer's message, without those of thoughts and calls."""

from collections.abc import Sequence

from server.generation.choice import ScoredToken
from server.text.tokenizer import Tokenizer


class TextTokens:
    """Holds generated tokens until their text is sent, which stop strings and incomplete characters can delay."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._pending: list[ScoredToken] = []

    def add(self, tokens: Sequence[ScoredToken]) -> None:
        self._pending += tokens

    def pass_over(self, text: str) -> None:
        """Drop the tokens up to the end of `text`, which belongs to a thought or a call. Drops all tokens if they do
        not spell the text."""
        pieces, spelled = self._spelled()
        wanted = text.encode()
        start = spelled.rfind(wanted) if wanted else -1
        last = len(pieces) if start < 0 else _overlapping(pieces, start, start + len(wanted))[1]
        self._pending = self._pending[last:]

    def take(self, text: str, *, is_last: bool) -> list[ScoredToken]:
        """Return the tokens that spell `text`, and drop them and all before them. Returns all tokens if they do not
        spell it.

        is_last: whether to take the last occurrence of the text among the pending tokens; otherwise the first.
        """
        pieces, spelled = self._spelled()
        wanted = text.encode()
        start = spelled.rfind(wanted) if is_last else spelled.find(wanted)
        if start < 0:
            taken, self._pending = self._pending, []
            return taken
        first, last = _overlapping(pieces, start, start + len(wanted))
        taken, self._pending = self._pending[first:last], self._pending[last:]
        return taken

    def _spelled(self) -> tuple[list[bytes], bytes]:
        pieces = [self._tokenizer.token_bytes(token.token_id) for token in self._pending]
        return pieces, b"".join(pieces)


def _overlapping(pieces: list[bytes], start: int, end: int) -> tuple[int, int]:
    """Return the index of the first piece with a byte between `start` and `end`, and the index after the last."""
    first, last, position = len(pieces), 0, 0
    for index, piece in enumerate(pieces):
        after = position + len(piece)
        if position < end and after > start:
            first, last = min(first, index), index + 1
        position = after
    return first, last
