"""Prompt lookup: what followed the last tokens when they occurred before, in prompt or output, may follow again.

The idea is Saxena's (Prompt Lookup Decoding, 2023) and Yang et al.'s (LLMA, 2023). Here a sequence's n-grams are kept
in an index that grows with it, so a step costs a few dictionary accesses a new token and not a search through the text;
and a passage that is being repeated is followed from where it stands as long as it agrees, without a new look-up.
"""

from bisect import bisect_left

from engine.scheduling.sequence import Sequence
from engine.speculation.proposers import Source

MOST_INDEXED = 4096  # tokens of all texts together in one step: about 5 ms
_LEAST_INDEXED = 32  # of each text, however long the others are


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
    def tokens(self) -> list[int]:
        return self._tokens

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

    After a difference it looks for the last n-gram of the text in the source: of several places it takes the latest, or
    the first after the one that was lost. `places`: those of the source whose token came when it was expected.
    """

    def __init__(self, index: NgramIndex, *, place: int | None, num_seen: int, prefers_latest: bool) -> None:
        """index: of the source. place: where the source goes on now, if known. num_seen: tokens of the text that are
        not looked at."""
        self._source = index.tokens
        self._index = index
        self._place = place
        self._last_place = 0
        self._num_seen = num_seen
        self._prefers_latest = prefers_latest
        self.places: set[int] = set()

    def advance(self, tokens: list[int], end: int | None = None) -> None:
        """Take in the tokens that came since the last call, up to `end` if that is given."""
        end = len(tokens) if end is None else end
        for position in range(self._num_seen, end):
            place = self._place
            if place is not None and place < len(self._source) and self._source[place] == tokens[position]:
                self.places.add(place)
                self._place = place + 1
            else:
                self._last_place = self._last_place if place is None else place
                self._place = self._find(tokens, position + 1)
        self._num_seen = max(self._num_seen, end)

    def next_tokens(self, tokens: list[int], num_tokens: int) -> list[int]:
        """What the source has next; `tokens` as in the last call of `advance`."""
        if self._place is None:  # what was not in the index then may be there now
            self._place = self._find(tokens, len(tokens))
        return [] if self._place is None else self._source[self._place : self._place + num_tokens]

    def _find(self, tokens: list[int], end: int) -> int | None:
        """Where the source goes on after the last n-gram of `tokens[:end]`."""
        ends = self._index.find(tokens[max(0, end - self._index.max_n) : end])
        if not ends:
            return None
        if self._prefers_latest:
            return ends[-1]
        following = bisect_left(ends, self._last_place)
        return ends[-1] if following == len(ends) else ends[following]


class NgramProposer:
    """Prompt lookup over each sequence's own tokens."""

    source = Source.NGRAM

    def __init__(self, min_n: int = 2, max_n: int = 4) -> None:
        """Looks for the last `max_n` tokens, and for fewer down to `min_n`."""
        self._min_n = min_n
        self._max_n = max_n
        self._states: dict[str, tuple[NgramIndex, Follower]] = {}
        self._num_left = MOST_INDEXED

    def begin_step(self) -> None:
        self._num_left = MOST_INDEXED

    def propose(self, sequence: Sequence, num_tokens: int) -> list[int]:
        tokens = sequence.tokens
        state = self._states.get(sequence.id)
        if state is None:
            index = NgramIndex(tokens, self._min_n, self._max_n)
            state = index, Follower(index, place=None, num_seen=len(tokens), prefers_latest=True)
            self._states[sequence.id] = state
        index, follower = state
        follower.advance(tokens)
        # Not the last n-gram, which must not find itself; and long prompts over several steps, as a pause that others
        # would notice.
        num_new = min(len(tokens) - 1 - index.num_indexed, max(_LEAST_INDEXED, self._num_left))
        index.update(index.num_indexed + num_new)
        self._num_left -= num_new
        return follower.next_tokens(tokens, num_tokens)

    def release(self, sequence: Sequence) -> None:
        self._states.pop(sequence.id, None)
