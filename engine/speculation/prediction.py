"""A client's predicted output as the draft (OpenAI's `prediction`): an edited file is mostly the file as it was."""

from weakref import WeakValueDictionary

from engine.scheduling.sequence import Sequence
from engine.speculation.ngram import MOST_INDEXED, Follower, NgramIndex
from engine.speculation.proposers import Source

_MIN_N, _MAX_N = 2, 4  # after a difference the output is found again in the prediction by so many tokens


class PredictionProposer:
    """Follows each sequence through its request's prediction, of which there is one index for all choices.

    A prediction is indexed over several steps if it is long, and followed when that is done: so what is found in it
    depends on the text alone.
    """

    source = Source.PREDICTION

    def __init__(self) -> None:
        self._indices: WeakValueDictionary[tuple[int, ...], NgramIndex] = WeakValueDictionary()
        self._followers: dict[str, tuple[NgramIndex, Follower]] = {}
        self._num_left = MOST_INDEXED

    def begin_step(self) -> None:
        self._num_left = MOST_INDEXED

    def propose(self, sequence: Sequence, num_tokens: int) -> list[int]:
        if not sequence.request.prediction_ids:
            return []
        follower = self._follower(sequence)
        if follower is None:
            return []
        follower.advance(sequence.tokens)
        return follower.next_tokens(sequence.tokens, num_tokens)

    def num_found(self, sequence: Sequence, num_new: int) -> list[int]:
        """After each of the last `num_new` tokens, which came in this step: how many tokens of the prediction the
        output has had, whether or not they were verified as a draft."""
        follower = self._follower(sequence)
        if follower is None:
            return [0] * num_new
        num_tokens, counts = len(sequence.tokens), []
        for end in range(num_tokens - num_new + 1, num_tokens + 1):
            follower.advance(sequence.tokens, end)
            counts.append(len(follower.places))
        return counts

    def release(self, sequence: Sequence) -> None:
        self._followers.pop(sequence.id, None)

    def _follower(self, sequence: Sequence) -> Follower | None:
        """The sequence's; None while the index is not complete."""
        state = self._followers.get(sequence.id)
        if state is None:
            index = self._index(tuple(sequence.request.prediction_ids))
            state = index, Follower(index, place=0, num_seen=sequence.num_prompt, prefers_latest=False)
            self._followers[sequence.id] = state
        index, follower = state
        num_new = min(len(index.tokens) - index.num_indexed, self._num_left)
        if num_new:
            index.update(index.num_indexed + num_new)
            self._num_left -= num_new
        return follower if index.num_indexed == len(index.tokens) else None

    def _index(self, prediction_ids: tuple[int, ...]) -> NgramIndex:
        index = self._indices.get(prediction_ids)
        if index is None:
            index = NgramIndex(list(prediction_ids), _MIN_N, _MAX_N)
            self._indices[prediction_ids] = index
        return index
