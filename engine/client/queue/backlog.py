"""Backlog: the requests that wait for the engine, and their prompt tokens, by service class."""

from engine.protocol import ServiceClass

_ORDER = {each: rank for rank, each in enumerate(ServiceClass)}  # the engine serves classes in their order


class Backlog:
    """Requests that the engine has not started, counted by service class. Invariant: the sums match the requests."""

    def __init__(self) -> None:
        self._waiting: dict[str, tuple[int, int]] = {}  # rank and prompt tokens
        self._num_requests = [0] * len(_ORDER)  # by rank
        self._num_tokens = [0] * len(_ORDER)

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._waiting

    @property
    def num_tokens(self) -> int:
        """Number of prompt tokens of waiting clients' requests."""
        return self.num_tokens_before(ServiceClass.BACKGROUND)

    def num_requests_before(self, service_class: ServiceClass) -> int:
        """Return the number of waiting requests that are served before a new request of this class."""
        return sum(self._num_requests[: _ORDER[service_class] + 1])

    def num_tokens_before(self, service_class: ServiceClass) -> int:
        """Return the prompt tokens of the requests that are served before a new request of this class."""
        return sum(self._num_tokens[: _ORDER[service_class] + 1])

    def add(self, request_id: str, service_class: ServiceClass, num_tokens: int) -> None:
        """Add or replace a request. num_tokens: its prompt tokens, without those that another choice of the same API
        request computes."""
        self.remove(request_id)
        rank = _ORDER[service_class]
        self._waiting[request_id] = rank, num_tokens
        self._num_requests[rank] += 1
        self._num_tokens[rank] += num_tokens

    def remove(self, request_id: str) -> None:
        """Remove a request that was started or has ended; do nothing if it is not in the backlog."""
        if request_id in self._waiting:
            rank, num_tokens = self._waiting.pop(request_id)
            self._num_requests[rank] -= 1
            self._num_tokens[rank] -= num_tokens

    def check(self) -> None:
        for rank in _ORDER.values():
            waiting = [num_tokens for each, num_tokens in self._waiting.values() if each == rank]
            assert self._num_requests[rank] == len(waiting)
            assert self._num_tokens[rank] == sum(waiting)
