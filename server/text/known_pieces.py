"""KnownPieces: a cache of token ids, since each turn of a chat sends the whole conversation again."""

import re
import sys
import threading
from array import array
from collections import OrderedDict
from collections.abc import Callable, Iterator

import tokenizers

_MAX_BYTES = 32 * 2**20  # about 16 million characters of prose, or a fifth of that with a token for each letter
_MIN_CHARACTERS = 256  # shorter pieces are tokenized as fast as they are found

# Returns the ids of a text, with control tokens parsed and nothing added. Raises TooManyTokens above the limit, if any.
Encode = Callable[[str, int | None], list[int]]


class KnownPieces:
    """An LRU cache of the token ids of pieces of text between control tokens. Thread-safe.

    A tokenizer first splits a text at its added tokens, so a piece between two of them has the same ids everywhere.
    Only the beginning of a text may differ, where some tokenizers add a space.

    A piece is only found with the salt with which it was stored, as in the KV cache: the time that a text takes would
    tell whether another client sent it.
    """

    def __init__(
        self, added: dict[str, int], control: frozenset[str], encode: Encode, *, max_bytes: int = _MAX_BYTES
    ) -> None:
        """added: ids of all added tokens, by text. control: the added tokens at which texts are split."""
        self._added = re.compile("|".join(re.escape(text) for text in sorted(added, key=len, reverse=True)))
        self._ids = added
        self._control = control
        self._encode = encode
        self._max_bytes = max_bytes
        self._known: OrderedDict[tuple[str, bool, str], tuple[array[int], int]] = OrderedDict()  # ids, and bytes
        self._num_bytes = 0
        self._lock = threading.Lock()

    def ids(self, text: str, at_most: int | None = None, *, salt: str = "") -> list[int]:
        """Return the token ids of `text`, from the cache if possible. salt: the cache salt of the request.

        Raises TooManyTokens if a piece has more than `at_most`.
        """
        ids: list[int] = []
        for control, piece in self._pieces(text):
            if control:
                ids.append(self._ids[control])
            if len(piece) < _MIN_CHARACTERS:
                ids += self._encode_behind(control, piece, at_most) if piece else []
            else:
                ids += self._remembered(salt, control, piece, at_most)
        return ids

    def _pieces(self, text: str) -> Iterator[tuple[str, str]]:
        """Yield each control token with the piece of text after it; for the piece at the beginning, the token is ""."""
        control, start = "", 0
        for match in self._added.finditer(text):
            if match[0] in self._control:
                yield control, text[start : match.start()]
                control, start = match[0], match.end()
        yield control, text[start:]

    def _remembered(self, salt: str, control: str, piece: str, at_most: int | None) -> "array[int]":
        key = (salt, control == "", piece)
        with self._lock:
            if (known := self._known.get(key)) is not None:
                self._known.move_to_end(key)
                return known[0]
        ids = array("I", self._encode_behind(control, piece, at_most))
        with self._lock:
            if key not in self._known:
                num_bytes = sys.getsizeof(piece) + sys.getsizeof(ids)
                self._known[key] = ids, num_bytes
                self._num_bytes += num_bytes
            while self._num_bytes > self._max_bytes:
                _, (_, num_bytes) = self._known.popitem(last=False)
                self._num_bytes -= num_bytes
        return ids

    def _encode_behind(self, control: str, piece: str, at_most: int | None) -> list[int]:
        return self._encode(control + piece, at_most)[1 if control else 0 :]


def find_known_pieces(tokenizer: tokenizers.Tokenizer, encode: Encode) -> KnownPieces | None:
    """Return a cache; None if there are no control tokens, or added tokens depend on the text around them."""
    added = tokenizer.get_added_tokens_decoder()
    control = frozenset(token.content for token in added.values() if token.special)
    if not control or any(
        token.lstrip or token.rstrip or token.single_word or token.normalized for token in added.values()
    ):
        return None
    return KnownPieces({token.content: token_id for token_id, token in added.items()}, control, encode)
