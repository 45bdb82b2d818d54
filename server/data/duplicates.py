"""Duplicates: the key by which lines are the same, and lines that are nearly the same."""

import hashlib
import itertools
import json
import zlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from server.data.words import normalized, shared_in_order, window

_NUM_PERM = 128
_NUM_BANDS = (
    32  # of 4 values: at the threshold 0.8, 20 % of the words changed, 80 % of pairs are compared; at 10 %, all
)
_SEED = 42
_NUM_BITS = 4096  # of a text's set of words
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


class _WordSet(NamedTuple):
    """Set of a text's words as bits, in which two words may have the same bit. Chats that share a long instruction are
    all candidates of each other, and this tells most of them apart at a thousandth of the cost of comparing them."""

    bits: int
    num_words: int

    @classmethod
    def of(cls, words: Sequence[str]) -> "_WordSet":
        bits = bytearray(_NUM_BITS // 8)
        for word in set(words):
            place = zlib.crc32(word.encode("utf-8", "surrogatepass")) % _NUM_BITS
            bits[place >> 3] |= 1 << (place & 7)
        return cls(int.from_bytes(bits, "little"), len(words))

    def may_share(self, other: "_WordSet", least: float) -> bool:
        """Whether a share of `least` is possible: each bit of one text alone is a word that they have not in common."""
        common = min(
            self.num_words - (self.bits & ~other.bits).bit_count(),
            other.num_words - (other.bits & ~self.bits).bit_count(),
        )
        return common / max(self.num_words, other.num_words) >= least


class NearDuplicates:
    """Index of texts. MinHash over pairs of words (rensa) proposes candidates; each is verified by the share of words
    that both texts have in the same order, unless their sets of words already differ too much."""

    def __init__(self, threshold: float, words_at: Callable[[int], Sequence[str]]) -> None:
        """words_at: returns the words of a text that was added. Needs rensa."""
        import rensa

        self._threshold = threshold
        self._words_at = words_at
        self._minhash = rensa.RMinHash
        self._last: tuple[Sequence[str], Any, _WordSet] = ((), None, _WordSet(0, 0))  # what was hashed
        self._sets: dict[int, _WordSet] = {}  # of added texts
        self._index = rensa.RMinHashLSH(threshold=threshold, num_perm=_NUM_PERM, num_bands=_NUM_BANDS)

    def matches(self, words: Sequence[str]) -> list[tuple[int, float]]:
        """Return the added texts with at least the threshold's share of words in common, and the shares."""
        if len(words) < window(words, _LEAST_WORDS):
            return []
        self._last = (words, self._hashed(words), own := _WordSet.of(words))
        least = self._threshold
        candidates = [key for key in sorted(self._index.query(self._last[1])) if own.may_share(self._sets[key], least)]
        shares = [(key, shared_in_order(self._words_at(key), words, self._threshold)) for key in candidates]
        return [(key, share) for key, share in shares if share >= self._threshold]

    def add(self, key: int, words: Sequence[str]) -> None:
        if len(words) >= window(words, _LEAST_WORDS):
            if self._last[0] is not words:
                self._last = (words, self._hashed(words), _WordSet.of(words))
            self._index.insert(key, self._last[1])
            self._sets[key] = self._last[2]

    def _hashed(self, words: Sequence[str]) -> Any:
        minhash = self._minhash(num_perm=_NUM_PERM, seed=_SEED)
        minhash.update([f"{one} {other}" for one, other in itertools.pairwise(words)])
        return minhash
