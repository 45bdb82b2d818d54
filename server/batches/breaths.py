"""breathing: long work of a thread that leaves Python's lock to the event loop every few milliseconds."""

import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")

_WORK_S, _REST_S = 0.002, 0.001


def breathing(
    items: Iterable[T], *, clock: Callable[[], float] = time.monotonic, sleep: Callable[[float], None] = time.sleep
) -> Iterator[T]:
    """The items, with a rest after each few milliseconds of what is done with them.

    A thread that only runs Python code gives up the lock when it is asked to, 5 ms after another thread wants it: each
    time that the event loop wakes for a client's token, this would be added.
    """
    since_s = clock()
    for item in items:
        yield item
        if clock() - since_s >= _WORK_S:
            sleep(_REST_S)
            since_s = clock()
