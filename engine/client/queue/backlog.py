"""Backlog: the requests that wait for their turn, and how many prompt tokens they bring."""

from dataclasses import dataclass

from engine.protocol import ServiceClass

_ORDER = {each: rank for rank, each in enumerate(ServiceClass)}  # the engine serves classes in their order


@dataclass(frozen=True, slots=True)
class _Waiting:
    rank: int
    num_tokens: int


class Backlog:
    """Requests by id of which the engine has computed nothing yet. Invariant: the sums are those of the requests."""

    def __init__(self) -> None:
        self._waiting: dict[str, _Waiting] = {}
        self._num_requests = [0] * len(_ORDER)  # by rank
        self._num_tokens = [0] * len(_ORDER)

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._waiting

    @property
    def num_tokens(self) -> int:
        """Prompt tokens of clients' requests."""
        return self.num_tokens_before(ServiceClass.BACKGROUND)

    def num_requests_before(self, service_class: ServiceClass) -> int:
        """Requests that are served before one of this class that comes now."""
        return sum(self._num_requests[: _ORDER[service_class] + 1])

    def num_tokens_before(self, service_class: ServiceClass) -> int:
        """Their prompt tokens."""
        return sum(self._num_tokens[: _ORDER[service_class] + 1])

    def add(self, request_id: str, service_class: ServiceClass, num_tokens: int) -> None:
        """A request waits, again if it did before. num_tokens: to compute for it that no other one brings."""
        self.remove(request_id)
        waiting = _Waiting(_ORDER[service_class], num_tokens)
        self._waiting[request_id] = waiting
        self._num_requests[waiting.rank] += 1
        self._num_tokens[waiting.rank] += num_tokens

    def remove(self, request_id: str) -> None:
        """A request has begun, or is over; nothing happens if it does not wait."""
        if (waiting := self._waiting.pop(request_id, None)) is not None:
            self._num_requests[waiting.rank] -= 1
            self._num_tokens[waiting.rank] -= waiting.num_tokens

    def check(self) -> None:
        """Assert the invariant."""
        for rank in _ORDER.values():
            waiting = [each for each in self._waiting.values() if each.rank == rank]
            assert self._num_requests[rank] == len(waiting)
            assert self._num_tokens[rank] == sum(each.num_tokens for each in waiting)
