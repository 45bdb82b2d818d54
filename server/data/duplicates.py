"""Duplicates: the key by which lines are the same, and lines that are nearly the same."""

import hashlib
import itertools
import json
import zlib
from array import array
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
_LEAST_SLOTS = 1 << 16
_MULTIPLIER = 0x9E3779B1


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
        self._last: tuple[Sequence[str], Sequence[int], _WordSet] = ((), (), _WordSet(0, 0))  # what was hashed
        self._sets: dict[int, _WordSet] = {}  # of added texts
        self._index = BandIndex(_NUM_BANDS)

    def matches(self, words: Sequence[str]) -> list[tuple[int, float]]:
        """Return the added texts with at least the threshold's share of words in common, and the shares."""
        if len(words) < window(words, _LEAST_WORDS):
            return []
        self._last = (words, self._hashed(words), own := _WordSet.of(words))
        least = self._threshold
        candidates = [key for key in self._index.query(self._last[1]) if own.may_share(self._sets[key], least)]
        shares = [(key, shared_in_order(self._words_at(key), words, self._threshold)) for key in candidates]
        return [(key, share) for key, share in shares if share >= self._threshold]

    def add(self, key: int, words: Sequence[str]) -> None:
        if len(words) >= window(words, _LEAST_WORDS):
            if self._last[0] is not words:
                self._last = (words, self._hashed(words), _WordSet.of(words))
            self._index.add(key, self._last[1])
            self._sets[key] = self._last[2]

    def _hashed(self, words: Sequence[str]) -> Sequence[int]:
        minhash = self._minhash(num_perm=_NUM_PERM, seed=_SEED)
        minhash.update([f"{one} {other}" for one, other in itertools.pairwise(words)])
        return self._index.hashes_of(minhash.digest())


class BandIndex:
    """Hash table in arrays of 32-bit numbers: 0.4 to 0.5 kB for a text of 32 bands, where maps of objects take 3.3 kB.

    Entry t * num_bands + b is band b of text t. `_first` has for each slot the last entry there plus 1, and `_next` for
    each entry the one before it in its slot plus 1; 0 ends a chain. The slot is the entry's hash modulo the slots.
    Keys are added in ascending order. Bands with equal hashes of 32 bits count as the same: a false candidate is
    harmless, since each one is verified.
    """

    def __init__(self, num_bands: int) -> None:
        self._num_bands = num_bands
        self._keys = array("I")  # of texts
        self._hashes = array("I")
        self._next = array("I")
        self._first = array("I", bytes(4 * _LEAST_SLOTS))

    def hashes_of(self, values: Sequence[int]) -> list[int]:
        """Return a hash for each band. values: the text's MinHash values of 32 bits, as many in each band."""
        data = array("I", values).tobytes()
        width = len(data) // self._num_bands
        # Equal values in two bands must not be the same.
        return [
            zlib.crc32(data[band * width : (band + 1) * width]) ^ (band * _MULTIPLIER & 0xFFFFFFFF)
            for band in range(self._num_bands)
        ]

    def add(self, key: int, hashes: Sequence[int]) -> None:
        if len(self._hashes) + self._num_bands > len(self._first):
            self._grow()
        self._keys.append(key)
        for value in hashes:
            self._link(len(self._hashes), value)
            self._hashes.append(value)

    def query(self, hashes: Sequence[int]) -> list[int]:
        """Return the keys of texts with a band in common, in ascending order."""
        mask, known, following = len(self._first) - 1, self._hashes, self._next
        found = set()
        for value in hashes:
            entry = self._first[value & mask]
            while entry:
                if known[entry - 1] == value:
                    found.add((entry - 1) // self._num_bands)
                entry = following[entry - 1]
        return [self._keys[text] for text in sorted(found)]

    def _link(self, entry: int, value: int) -> None:
        slot = value & (len(self._first) - 1)
        self._next.append(self._first[slot])
        self._first[slot] = entry + 1

    def _grow(self) -> None:
        self._first = array("I", bytes(8 * len(self._first)))
        self._next = array("I")
        for entry, value in enumerate(self._hashes):
            self._link(entry, value)
