"""Acceptance: how likely tokens are to be drafted and to stand, learned by position and by request."""

from dataclasses import dataclass, field

from engine.speculation.proposers import Source

_START = 0.7  # before anything is known
_GOING = 0.9  # the same, of a draft model's going on
_START_WEIGHT = 4.0  # in drafts
_REQUEST_WEIGHT = 2.0  # drafts of its own after which a request counts as much as all others
_FADING = 0.98  # of what a position or request has seen, for each further draft
_RECOVERY = 0.998  # of the same for all positions, for each step without a draft
_FIRST_PAUSE, _LONGEST_PAUSE = 16, 256  # steps until a request that stopped drafting tries again


@dataclass(slots=True)
class _Rate:
    tried: float = 0.0
    accepted: float = 0.0

    def add(self, is_accepted: bool) -> None:
        self.tried = self.tried * _FADING + 1
        self.accepted = self.accepted * _FADING + is_accepted

    def fade(self, factor: float) -> None:
        self.tried *= factor
        self.accepted *= factor

    def mean(self, prior: float, weight: float) -> float:
        return (prior * weight + self.accepted) / (weight + self.tried)


@dataclass(slots=True)
class _RequestState:
    rate: _Rate = field(default_factory=_Rate)
    num_idle: int = 0  # steps since it last drafted
    pause: int = _FIRST_PAUSE


class Acceptance:
    """Chances that the token at a place of a draft stands, given that those before it do.

    Learned for each source, and for each request and source: a bad prediction says nothing about a draft model.
    """

    def __init__(self) -> None:
        self._places: dict[Source, list[_Rate]] = {source: [] for source in Source}
        self._going: list[_Rate] = []  # of a draft model, by the places after the first
        self._requests: dict[str, dict[Source, _RequestState]] = {}

    def chances(self, request_id: str, source: Source, num_tokens: int) -> list[float]:
        """One a place. A request that has paused for long is given the benefit of the doubt."""
        state = self._requests.get(request_id, {}).get(source)
        general = _means(self._places[source], _START, num_tokens)
        if state is None or state.num_idle >= state.pause:
            return general
        return [state.rate.mean(chance, _REQUEST_WEIGHT) for chance in general]

    def going(self, source: Source, num_tokens: int) -> list[float]:
        """Chances that a place is drafted, given that the one before is: a draft model stops where it is unsure."""
        if source is not Source.DRAFT_MODEL:
            return [1.0] * num_tokens
        return [1.0, *_means(self._going, _GOING, num_tokens - 1)]

    def observe_length(self, num_allowed: int, num_drafted: int) -> None:
        """A draft model could have drafted so many tokens, and did so many."""
        rates = self._going
        for place in range(1, min(num_allowed, num_drafted + 1)):
            if place > len(rates):
                rates.append(_Rate())
            rates[place - 1].add(place < num_drafted)

    def observe(self, request_id: str, source: Source, num_drafted: int, num_accepted: int) -> None:
        """The outcome of one verification."""
        places = self._places[source]
        state = self._state(request_id, source)
        if state.num_idle >= state.pause:  # a new trial, after which it pauses for longer if it was in vain
            state.pause = min(2 * state.pause, _LONGEST_PAUSE)
            state.rate.fade(0.5)
        state.num_idle = 0
        if num_accepted:
            state.pause = _FIRST_PAUSE
        for place in range(min(num_drafted, num_accepted + 1)):
            if place == len(places):
                places.append(_Rate())
            places[place].add(place < num_accepted)
            state.rate.add(place < num_accepted)

    def observe_idle(self, request_id: str, source: Source) -> None:
        """A request could have drafted from this source and did not."""
        self._state(request_id, source).num_idle += 1

    def observe_idle_step(self) -> None:
        """No request drafted: what is known of all of them loses weight, or they would never be tried again."""
        for places in (*self._places.values(), self._going):
            for rate in places:
                rate.fade(_RECOVERY)

    def release(self, request_id: str) -> None:
        self._requests.pop(request_id, None)

    def _state(self, request_id: str, source: Source) -> _RequestState:
        return self._requests.setdefault(request_id, {}).setdefault(source, _RequestState())


def _means(rates: list[_Rate], prior: float, count: int) -> list[float]:
    """The first `count` means, each with the one before it as its prior: what is hardly tried is like its neighbor."""
    means = []
    for place in range(count):
        prior = rates[place].mean(prior, _START_WEIGHT) if place < len(rates) else prior
        means.append(prior)
    return means
