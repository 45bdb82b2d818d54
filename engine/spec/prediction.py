"""A client's predicted output as the draft (OpenAI's `prediction`): an edited file is mostly the file as it was."""

from engine.sequence import Sequence
from engine.spec.base import Source
from engine.spec.ngram import Follower, NgramIndex

_MIN_N, _MAX_N = 2, 4  # after a difference the output is found again in the prediction by so many tokens


class PredictionProposer:
    """Follows each sequence through its request's prediction."""

    source = Source.PREDICTION

    def __init__(self) -> None:
        self._followers: dict[str, Follower] = {}

    def propose(self, sequence: Sequence, num_tokens: int) -> list[int]:
        if not sequence.request.prediction_ids:
            return []
        follower = self._follower(sequence)
        follower.advance(sequence.tokens)
        return follower.next_tokens(sequence.tokens, num_tokens, prefers_latest=False)

    def num_found(self, sequence: Sequence) -> int:
        """Tokens of the prediction that the output has had, whether or not they were verified as a draft."""
        follower = self._follower(sequence)
        follower.advance(sequence.tokens)
        # Finds the place again after a difference even where nothing is proposed, so that the count depends on the
        # text alone.
        follower.next_tokens(sequence.tokens, 0, prefers_latest=False)
        return follower.num_followed

    def release(self, sequence: Sequence) -> None:
        self._followers.pop(sequence.id, None)

    def _follower(self, sequence: Sequence) -> Follower:
        follower = self._followers.get(sequence.id)
        if follower is None:
            ids = sequence.request.prediction_ids
            index = NgramIndex(ids, _MIN_N, _MAX_N)
            index.update(len(ids))
            follower = Follower(ids, index, place=0, num_seen=sequence.num_prompt)
            self._followers[sequence.id] = follower
        return follower
