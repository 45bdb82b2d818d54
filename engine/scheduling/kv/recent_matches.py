"""RecentMatches: cached prefixes of waiting sequences, looked up again only when they may have changed."""

from collections import abc

from engine.scheduling.kv.block_pool import BlockPool
from engine.scheduling.kv.prefixes import PrefixIndex, PrefixMatch
from engine.scheduling.sequence import Sequence

_MOST_KEPT = 64  # more than admission looks at in a step while blocks are short


class RecentMatches:
    """Remembers the matches of sequences that wait for blocks, so that steps do not look up their whole prefixes.

    A match stays the longest while no cached block is forgotten and the block after it is not registered. With windows
    and states, where a longer prefix may need fewer blocks, nothing is remembered.
    """

    def __init__(self, prefixes: PrefixIndex, pool: BlockPool) -> None:
        """pool: of the blocks with keys and values."""
        self._prefixes = prefixes
        self._pool = pool
        self._is_kept = all(group.is_full_attention for group in prefixes.groups)
        self._known: dict[Sequence, tuple[int, int, PrefixMatch]] = {}  # with the pool's version and number of digests

    def find(self, sequence: Sequence, hashes: abc.Sequence[bytes]) -> PrefixMatch:
        """Return the longest match of a sequence's digests. It is returned again until `forget`, so do not change it
        before."""
        version, num_hashes, match = self._known.get(sequence, (None, None, None))
        if (
            match is not None
            and version == self._pool.version
            and num_hashes == len(hashes)
            and not self._prefixes.is_continued(match, hashes)
        ):
            return match
        match = self._prefixes.longest_match(hashes)
        if self._is_kept:
            if len(self._known) >= _MOST_KEPT:
                del self._known[next(iter(self._known))]
            self._known[sequence] = self._pool.version, len(hashes), match
        return match

    def forget(self, sequence: Sequence) -> None:
        self._known.pop(sequence, None)

    def check(self) -> None:
        """Assert that what is remembered is what a lookup would find."""
        for sequence, (_, num_hashes, _) in list(self._known.items()):
            hashes = sequence.unit_hashes[:num_hashes]
            assert self.find(sequence, hashes) == self._prefixes.longest_match(hashes), sequence.id
