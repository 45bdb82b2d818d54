"""Prompt lookup: what followed the last tokens when they occurred before, in prompt or output, may follow again.

The idea is Saxena's (Prompt Lookup Decoding, 2023) and Yang et al.'s (LLMA, 2023). Here a sequence's n-grams are kept
in an index that grows with it, so a step costs a few dictionary accesses a new token and not a search through the text;
and a passage that is being repeated is followed from where it stands as long as it agrees, without a new look-up.
"""

from bisect import bisect_left

from engine.sequence import Sequence
from engine.spec.base import Source

_MOST_INDEXED = 4096  # tokens of a prompt in one step: about 5 ms


class NgramIndex:
    """Where each n-gram of a growing list of tokens ends: the positions after it, in ascending order.

    Invariant: it covers the n-grams that end among the first `num_indexed` tokens.
    """

    def __init__(self, tokens: list[int], min_n: int, max_n: int) -> None:
        """tokens: followed by reference; they may only grow."""
        self._tokens = tokens
        self._sizes = range(max_n, min_n - 1, -1)
        self._ends: dict[tuple[int, ...], list[int]] = {}
        self._num_indexed = 0

    @property
    def num_indexed(self) -> int:
        return self._num_indexed

    def update(self, num_tokens: int) -> None:
        """Index the n-grams that end among the first `num_tokens` tokens."""
        for end in range(self._num_indexed + 1, num_tokens + 1):
            for size in self._sizes:
                if size <= end:
                    self._ends.setdefault(tuple(self._tokens[end - size : end]), []).append(end)
        self._num_indexed = max(self._num_indexed, num_tokens)

    def find(self, last_tokens: list[int]) -> list[int]:
        """Positions after the longest n-gram that `last_tokens` ends with and that is known; [] if none is."""
        for size in self._sizes:
            if size <= len(last_tokens):
                ends = self._ends.get(tuple(last_tokens[len(last_tokens) - size :]))
                if ends is not None:
                    return ends
        return []

    @property
    def max_n(self) -> int:
        return self._sizes.start


class Follower:
    """Follows a text through a source: keeps the place in the source that comes next, as long as both agree.

    num_followed: tokens of the text that were at the place in the source where they were expected.
    """

    def __init__(self, source: list[int], index: NgramIndex, *, place: int | None, num_seen: int) -> None:
        """place: where the source goes on now, if known. num_seen: tokens of the text that are not looked at."""
        self._source = source
        self._index = index
        self._place = place
        self._last_place = 0
        self._num_seen = num_seen
        self.num_followed = 0

    def advance(self, tokens: list[int]) -> None:
        """Take in the tokens that came since the last call."""
        for position in range(self._num_seen, len(tokens)):
            place = self._place
            if place is not None and place < len(self._source) and self._source[place] == tokens[position]:
                self._place = place + 1
                self.num_followed += 1
            else:
                self._last_place, self._place = (place or self._last_place), None
        self._num_seen = len(tokens)

    def next_tokens(self, tokens: list[int], num_tokens: int, *, prefers_latest: bool) -> list[int]:
        """What the source has next; after a difference, where the last n-gram of `tokens` occurs in it.

        Of several places the latest, or the first after the one that was lost.
        """
        if self._place is None:
            ends = self._index.find(tokens[-self._index.max_n :])
            if ends:
                following = bisect_left(ends, self._last_place)
                self._place = ends[-1] if prefers_latest or following == len(ends) else ends[following]
        return [] if self._place is None else self._source[self._place : self._place + num_tokens]


class NgramProposer:
    """Prompt lookup over each sequence's own tokens."""

    source = Source.NGRAM

    def __init__(self, min_n: int = 2, max_n: int = 4) -> None:
        """Looks for the last `max_n` tokens, and for fewer down to `min_n`."""
        self._min_n = min_n
        self._max_n = max_n
        self._states: dict[str, tuple[NgramIndex, Follower]] = {}

    def propose(self, sequence: Sequence, num_tokens: int) -> list[int]:
        tokens = sequence.tokens
        state = self._states.get(sequence.id)
        if state is None:
            index = NgramIndex(tokens, self._min_n, self._max_n)
            state = index, Follower(tokens, index, place=None, num_seen=len(tokens))
            self._states[sequence.id] = state
        index, follower = state
        follower.advance(tokens)
        # Not the last n-gram, which must not find itself; and a long prompt over several steps, as a pause that others
        # would notice.
        index.update(min(len(tokens) - 1, index.num_indexed + _MOST_INDEXED))
        return follower.next_tokens(tokens, num_tokens, prefers_latest=True)

    def release(self, sequence: Sequence) -> None:
        self._states.pop(sequence.id, None)
