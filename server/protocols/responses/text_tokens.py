"""TextTokens: which of an answer's tokens belong to its message, where thoughts and calls stand beside it."""

from server.generation.choice import ScoredToken
from server.text.tokenizer import Tokenizer


class TextTokens:
    """Tokens that came and whose text is not sent yet, since a stop string or the end of a character could follow."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._pending: list[ScoredToken] = []

    def add(self, tokens: list[ScoredToken]) -> None:
        self._pending += tokens

    def pass_over(self, text: str) -> None:
        """Forget the tokens up to the end of `text`, of a thought or a call; all if they do not spell it."""
        pieces, spelled = self._spelled()
        wanted = text.encode()
        start = spelled.rfind(wanted) if wanted else -1
        last = len(pieces) if start < 0 else _overlapping(pieces, start, start + len(wanted))[1]
        self._pending = self._pending[last:]

    def take(self, text: str, *, is_last: bool) -> list[ScoredToken]:
        """The tokens that `text` was made of, all of them if they do not spell it. Those before it are forgotten.

        is_last: the text is the last part of the pending tokens' that spells so, else the first.
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
    """The first of the pieces that has a byte between `start` and `end`, and the one behind the last."""
    first, last, position = len(pieces), 0, 0
    for index, piece in enumerate(pieces):
        after = position + len(piece)
        if position < end and after > start:
            first, last = min(first, index), index + 1
        position = after
    return first, last
