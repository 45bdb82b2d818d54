"""Prompt lookup: drafts the tokens that followed the sequence's last n-gram where it occurred before, in prompt or
output.

The idea is Saxena's (Prompt Lookup Decoding, 2023) and Yang et al.'s (LLMA, 2023). Here each sequence has an index of
its n-grams that grows with it, so a step costs a few dictionary accesses for each new token and not a search through
the sequence. A passage that is being repeated is tracked from its current position as long as it agrees, without a new
lookup.
"""

from bisect import bisect_left

from engine.scheduling.sequence import Sequence
from engine.speculation.proposers import DraftSource

MAX_INDEXED_PER_STEP = 4096  # tokens of all sequences together: about 5 ms
_MIN_INDEXED_PER_STEP = 32  # tokens of each sequence, however long the others are


class NgramIndex:
    """Index of a growing list of tokens: for each n-gram the positions after its occurrences, in ascending order.

    Invariant: the index covers the n-grams that end among the first `num_indexed` tokens.
    """

    def __init__(self, tokens: list[int], min_n: int, max_n: int) -> None:
        """tokens: the list to index, kept by reference; it may only grow."""
        self.tokens = tokens
        self.max_n = max_n
        self._sizes = range(max_n, min_n - 1, -1)
        self._ends: dict[tuple[int, ...], list[int]] = {}
        self.num_indexed = 0

    def update(self, num_tokens: int) -> None:
        """Index the n-grams that end among the first `num_tokens` tokens."""
        for end in range(self.num_indexed + 1, num_tokens + 1):
            for size in self._sizes:
                if size <= end:
                    self._ends.setdefault(tuple(self.tokens[end - size : end]), []).append(end)
        self.num_indexed = max(self.num_indexed, num_tokens)

    def find(self, last_tokens: list[int]) -> list[int]:
        """Return the positions after the longest indexed n-gram that `last_tokens` ends with; [] if there is none."""
        for size in self._sizes:
            if size <= len(last_tokens):
                ends = self._ends.get(tuple(last_tokens[len(last_tokens) - size :]))
                if ends is not None:
                    return ends
        return []


class RepeatTracker:
    """Tracks where a sequence repeats a source text: keeps the next position in the source while both agree.

    After a mismatch, looks up the sequence's last n-gram in the source. If it occurs there several times, takes the
    last occurrence (`prefers_latest`), or the first that follows the mismatch. `matched`: source positions whose tokens
    the sequence repeated.
    """

    def __init__(self, index: NgramIndex, *, next_position: int | None, num_seen: int, prefers_latest: bool) -> None:
        """index: index of the source. next_position: where the source continues, if known. num_seen: number of the
        sequence's first tokens to skip."""
        self._source = index.tokens
        self._index = index
        self._next = next_position
        self._last = 0  # the position that was lost last
        self._num_seen = num_seen
        self._prefers_latest = prefers_latest
        self.matched: set[int] = set()

    def advance(self, tokens: list[int], end: int | None = None) -> None:
        """Process the sequence's tokens since the last call, up to `end` if given."""
        end = len(tokens) if end is None else end
        for position in range(self._num_seen, end):
            expected = self._next
            if expected is not None and expected < len(self._source) and self._source[expected] == tokens[position]:
                self.matched.add(expected)
                self._next = expected + 1
            else:
                self._last = self._last if expected is None else expected
                self._next = self._find(tokens, position + 1)
        self._num_seen = max(self._num_seen, end)

    def next_tokens(self, tokens: list[int], num_tokens: int) -> list[int]:
        """Return up to `num_tokens` tokens that come next in the source. tokens: the list last passed to `advance`."""
        if self._next is None:  # the index may have grown since
            self._next = self._find(tokens, len(tokens))
        return [] if self._next is None else self._source[self._next : self._next + num_tokens]

    def _find(self, tokens: list[int], end: int) -> int | None:
        """Return the source position after the last n-gram of `tokens[:end]`, or None if the source lacks it."""
        ends = self._index.find(tokens[max(0, end - self._index.max_n) : end])
        if not ends:
            return None
        if self._prefers_latest:
            return ends[-1]
        following = bisect_left(ends, self._last)
        return ends[-1] if following == len(ends) else ends[following]


class NgramProposer:
    """Prompt lookup over each sequence's own tokens."""

    source = DraftSource.NGRAM

    def __init__(self, min_n: int = 2, max_n: int = 4) -> None:
        """min_n, max_n: sizes of n-grams to look up; the longest match counts."""
        self._min_n = min_n
        self._max_n = max_n
        self._states: dict[str, tuple[NgramIndex, RepeatTracker]] = {}
        self._index_budget = MAX_INDEXED_PER_STEP

    def begin_step(self) -> None:
        self._index_budget = MAX_INDEXED_PER_STEP

    def propose(self, sequence: Sequence, num_tokens: int) -> list[int]:
        tokens = sequence.tokens
        state = self._states.get(sequence.id)
        if state is None:
            index = NgramIndex(tokens, self._min_n, self._max_n)
            state = index, RepeatTracker(index, next_position=None, num_seen=len(tokens), prefers_latest=True)
            self._states[sequence.id] = state
        index, tracker = state
        tracker.advance(tokens)
        # Not the last n-gram, which must not find itself; and long prompts over several steps, since the other
        # sequences would notice the pause.
        num_new = min(len(tokens) - 1 - index.num_indexed, max(_MIN_INDEXED_PER_STEP, self._index_budget))
        index.update(index.num_indexed + num_new)
        self._index_budget -= num_new
        return tracker.next_tokens(tokens, num_tokens)

    def release(self, sequence: Sequence) -> None:
        self._states.pop(sequence.id, None)
