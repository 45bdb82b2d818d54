"""Duplicates: the key by which lines are the same, and lines that are nearly the same."""

import hashlib
import itertools
import json
from collections.abc import Callable, Sequence
from typing import Any

from server.data.words import normalized, shared_in_order, window

_NUM_PERM = 128
_NUM_BANDS = (
    32  # of 4 values: at the threshold 0.8, 20 % of the words changed, 80 % of pairs are compared; at 10 %, all
)
_SEED = 42
_LEAST_WORDS = 20  # of a text that can be a near duplicate: one word more or less makes another question of a short one


def line_key(value: dict[str, Any]) -> bytes:
    """Return a digest that is the same for lines that differ only in case, character width or whitespace."""
    text = json.dumps(_plain(value), ensure_ascii=False, sort_keys=True)
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        return " ".join(normalized(value).split())
    if isinstance(value, list):
        return [_plain(each) for each in value]
    return {name: _plain(each) for name, each in value.items()} if isinstance(value, dict) else value


class NearDuplicates:
    """Index of texts. MinHash over pairs of words (rensa) proposes candidates; each is verified by the share of words
    that both texts have in the same order."""

    def __init__(self, threshold: float, words_at: Callable[[int], Sequence[str]]) -> None:
        """words_at: returns the words of a text that was added. Needs rensa."""
        import rensa

        self._threshold = threshold
        self._words_at = words_at
        self._minhash = rensa.RMinHash
        self._last: tuple[Sequence[str], Any] = ((), None)  # words that were hashed, with their MinHash
        self._index = rensa.RMinHashLSH(threshold=threshold, num_perm=_NUM_PERM, num_bands=_NUM_BANDS)

    def matches(self, words: Sequence[str]) -> list[tuple[int, float]]:
        """Return the added texts with at least the threshold's share of words in common, and the shares."""
        if len(words) < window(words, _LEAST_WORDS):
            return []
        self._last = (words, self._hashed(words))
        candidates = sorted(self._index.query(self._last[1]))
        shares = [(key, shared_in_order(self._words_at(key), words, self._threshold)) for key in candidates]
        return [(key, share) for key, share in shares if share >= self._threshold]

    def add(self, key: int, words: Sequence[str]) -> None:
        if len(words) >= window(words, _LEAST_WORDS):
            minhash = self._last[1] if self._last[0] is words else self._hashed(words)
            self._index.insert(key, minhash)

    def _hashed(self, words: Sequence[str]) -> Any:
        minhash = self._minhash(num_perm=_NUM_PERM, seed=_SEED)
        minhash.update([f"{one} {other}" for one, other in itertools.pairwise(words)])
        return minhash
