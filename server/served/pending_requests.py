"""Pending requests for a model: Waiter for a client's request, OperatorRequest for a load or unload."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(eq=False, slots=True)
class Waiter:
    """A request that waits for its model. `notify` is called once, when the request is admitted or `error` is set."""

    number: int  # in the order of arrival
    notify: Callable[[], None]
    is_batch: bool = False  # a line of a batch, for which no client waits
    is_admitted: bool = False
    error: Exception | None = None

    @property
    def is_done(self) -> bool:
        return self.is_admitted or self.error is not None


@dataclass(eq=False, slots=True)
class OperatorRequest:
    """An operator's request to load or unload a model. `notify` is called once, when it has succeeded or failed."""

    notify: Callable[[], None]
    is_done: bool = False
    error: Exception | None = None


def complete(requests: list[OperatorRequest]) -> None:
    """Remove all requests from the list and mark them as successful."""
    _end(requests, lambda: None)


def refuse(requests: list[OperatorRequest], error: Callable[[], Exception]) -> None:
    """Remove all requests from the list and fail each with a new exception."""
    _end(requests, error)


def _end(requests: list[OperatorRequest], error: Callable[[], Exception | None]) -> None:
    while requests:
        request = requests.pop(0)
        request.is_done, request.error = True, error()
        request.notify()
