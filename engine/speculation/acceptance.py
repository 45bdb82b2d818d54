"""Acceptance: estimates how likely tokens are drafted and accepted, by position and by request."""

from dataclasses import dataclass, field

from engine.speculation.proposers import DraftSource

_PRIOR = 0.7  # acceptance before anything is known
_CONTINUE_PRIOR = 0.9  # probability that a draft model continues a draft, before anything is known
_PRIOR_WEIGHT = 4.0  # drafts
_REQUEST_WEIGHT = 2.0  # drafts of its own after which a request counts as much as all others
_DECAY = 0.98  # of the counts of a position or request, for each further draft
_IDLE_DECAY = 0.998  # of the counts of all positions, for each step without a draft
_MIN_PAUSE, _MAX_PAUSE = 16, 256  # steps until a request that stopped drafting tries again


@dataclass(slots=True)
class _Rate:
    tried: float = 0.0
    accepted: float = 0.0

    def add(self, is_accepted: bool) -> None:
        self.tried = self.tried * _DECAY + 1
        self.accepted = self.accepted * _DECAY + is_accepted

    def decay(self, factor: float) -> None:
        self.tried *= factor
        self.accepted *= factor

    def mean(self, prior: float, weight: float) -> float:
        return (prior * weight + self.accepted) / (weight + self.tried)


@dataclass(slots=True)
class _RequestState:
    rate: _Rate = field(default_factory=_Rate)
    idle_steps: int = 0  # since the request last drafted
    pause_steps: int = _MIN_PAUSE


class Acceptance:
    """Estimates the probability of each draft position to be accepted, given that the positions before it are.

    Rates are kept for each source, and for each request and source: a bad prediction says nothing about a draft model.
    """

    def __init__(self) -> None:
        self._by_position: dict[DraftSource, list[_Rate]] = {source: [] for source in DraftSource}
        self._continuing: list[_Rate] = []  # of a draft model, by position after the first
        self._requests: dict[str, dict[DraftSource, _RequestState]] = {}

    def acceptance_probs(self, request_id: str, source: DraftSource, num_tokens: int) -> list[float]:
        """Return each position's acceptance probability: the request's own estimate, or the mean of all requests if
        this one has not drafted from the source for many steps."""
        state = self._requests.get(request_id, {}).get(source)
        general = _means(self._by_position[source], _PRIOR, num_tokens)
        if state is None or state.idle_steps >= state.pause_steps:
            return general
        return [state.rate.mean(prob, _REQUEST_WEIGHT) for prob in general]

    def continue_probs(self, source: DraftSource, num_tokens: int) -> list[float]:
        """Return each position's probability to be drafted if the one before is: a draft model may stop early."""
        if source is not DraftSource.DRAFT_MODEL:
            return [1.0] * num_tokens
        return [1.0, *_means(self._continuing, _CONTINUE_PRIOR, num_tokens - 1)]

    def observe_length(self, num_allowed: int, num_drafted: int) -> None:
        """Record that a draft model was allowed `num_allowed` tokens and drafted `num_drafted`."""
        rates = self._continuing
        for position in range(1, min(num_allowed, num_drafted + 1)):
            if position > len(rates):
                rates.append(_Rate())
            rates[position - 1].add(position < num_drafted)

    def observe(self, request_id: str, source: DraftSource, num_drafted: int, num_accepted: int) -> None:
        rates = self._by_position[source]
        state = self._state(request_id, source)
        if state.idle_steps >= state.pause_steps:  # a new trial; the next pause is longer if it was in vain
            state.pause_steps = min(2 * state.pause_steps, _MAX_PAUSE)
            state.rate.decay(0.5)
        state.idle_steps = 0
        if num_accepted:
            state.pause_steps = _MIN_PAUSE
        for position in range(min(num_drafted, num_accepted + 1)):
            if position == len(rates):
                rates.append(_Rate())
            rates[position].add(position < num_accepted)
            state.rate.add(position < num_accepted)

    def observe_idle(self, request_id: str, source: DraftSource) -> None:
        """Count a step in which the request could have drafted from this source and did not."""
        self._state(request_id, source).idle_steps += 1

    def observe_idle_step(self) -> None:
        """Decay all rates after a step without drafts: otherwise low rates would rule out drafts forever."""
        for rates in (*self._by_position.values(), self._continuing):
            for rate in rates:
                rate.decay(_IDLE_DECAY)

    def release(self, request_id: str) -> None:
        self._requests.pop(request_id, None)

    def _state(self, request_id: str, source: DraftSource) -> _RequestState:
        return self._requests.setdefault(request_id, {}).setdefault(source, _RequestState())


def _means(rates: list[_Rate], prior: float, count: int) -> list[float]:
    """Return the first `count` mean rates, each with the mean before it as its prior: a position that was hardly tried
    is assumed to be like its neighbor."""
    means = []
    for position in range(count):
        prior = rates[position].mean(prior, _PRIOR_WEIGHT) if position < len(rates) else prior
        means.append(prior)
    return means
