"""BeamSearch: the state of a search for the likeliest continuations of a prompt, which advances token by token.

Each step extends every running beam by its likeliest tokens, and keeps the best `width` of all extensions. An extension
that ends with an end token is finished if it is among the best `width`. Its score is its log probability divided by
length ** length_penalty (Wu et al., 2016, arXiv:1609.08144, as in transformers). Beams, order and stopping are the same
as in transformers' `generate(num_beams=width)`.
"""

import enum
import heapq
from dataclasses import dataclass
from typing import Self

from engine.protocol import TokenLogprobs


class EarlyStopping(enum.Enum):
    """Condition for ending a search before max_tokens."""

    WHEN_FULL = True  # when `width` beams have finished
    WHEN_HOPELESS = False  # when the best running beam, ending now, would be worse than all finished beams
    NEVER = "never"  # when no running beam could become better by max_tokens


@dataclass(frozen=True, slots=True)
class BeamOptions:
    width: int
    length_penalty: float = 1.0  # above 0 longer answers are preferred, since log probabilities are negative
    early_stopping: EarlyStopping = EarlyStopping.WHEN_HOPELESS


@dataclass(frozen=True, slots=True)
class Beam:
    """A continuation of the prompt, as a linked list: its last token and the beam that it extends."""

    parent: Self | None
    token: TokenLogprobs | None  # None for the empty continuation
    length: int
    logprob: float  # sum over all tokens

    @property
    def tokens(self) -> list[TokenLogprobs]:
        tokens = []
        beam: Beam | None = self
        while beam is not None and beam.token is not None:
            tokens.append(beam.token)
            beam = beam.parent
        return tokens[::-1]


@dataclass(frozen=True, slots=True)
class FinishedBeam:
    beam: Beam
    score: float
    end_id: int | None  # the token that ended the beam; None if max_tokens did


class BeamSearch:
    """The running and finished beams of one prompt.

    Invariants: `running` is sorted, best first, and has `width` beams except in the first step; `finished` is sorted
    and has at most `width`; once `is_over`, nothing changes and `finished` is not empty.
    """

    def __init__(
        self, options: BeamOptions, *, max_tokens: int, min_tokens: int = 0, end_ids: frozenset[int] = frozenset()
    ) -> None:
        """end_ids: tokens that end a beam; not allowed among its first min_tokens."""
        assert max_tokens > 0
        self._options = options
        self._max_tokens = max_tokens
        self._min_tokens = min_tokens
        self._end_ids = end_ids
        self._length = 0
        self.running = [Beam(None, None, 0, 0.0)]
        self.finished: list[FinishedBeam] = []
        self.is_over = False

    @property
    def num_continuations(self) -> int:
        """The number of top tokens that `advance` needs of each beam: enough for `width` that are not end tokens."""
        return self._options.width + len(self._end_ids)

    def advance(self, continuations: list[list[TokenLogprobs]]) -> None:
        """Extend the beams by one token. continuations: the likeliest next tokens of each running beam, best first."""
        assert not self.is_over
        width = self._options.width
        self._length += 1
        candidates = [
            Beam(beam, token, self._length, beam.logprob + token.logprob)
            for beam, tokens in zip(self.running, continuations, strict=True)
            for token in tokens
            if self._length > self._min_tokens or token.token_id not in self._end_ids
        ]
        candidates.sort(key=lambda beam: beam.logprob, reverse=True)
        is_last = self._length == self._max_tokens
        ended = [beam for beam in candidates[:width] if is_last or self._end_id(beam) is not None]
        self._finish(ended)
        self.running = [beam for beam in candidates if self._end_id(beam) is None][:width]
        self.is_over = is_last or not self.running or not self._could_improve()

    def give_up(self) -> None:
        """End the search now, with the running beams as finished ones."""
        if not self.is_over and self._length:
            self._finish(self.running)
        self.is_over = True

    def _end_id(self, beam: Beam) -> int | None:
        assert beam.token is not None
        return beam.token.token_id if beam.token.token_id in self._end_ids else None

    def _finish(self, beams: list[Beam]) -> None:
        penalty = self._options.length_penalty
        ended = [FinishedBeam(beam, beam.logprob / beam.length**penalty, self._end_id(beam)) for beam in beams]
        best = heapq.nlargest(self._options.width, [*self.finished, *ended], key=lambda each: each.score)
        self.finished = best

    def _could_improve(self) -> bool:
        """Whether a running beam could still beat the worst finished beam, by the early-stopping rule."""
        options = self._options
        if len(self.finished) < options.width:
            return True
        if options.early_stopping is EarlyStopping.WHEN_FULL:
            return False
        is_patient = options.early_stopping is EarlyStopping.NEVER and options.length_penalty > 0
        length = self._max_tokens if is_patient else self._length
        return self.running[0].logprob / length**options.length_penalty > self.finished[-1].score
