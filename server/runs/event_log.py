"""EventLog: the events of one stream, numbered from 1, for readers that come, leave and come back."""

import asyncio
from collections import deque
from itertools import islice

from server.errors import EventsDropped

EVENT_OVERHEAD_BYTES = 64  # of the object around an event's bytes


def event_size(event: bytes) -> int:
    return len(event) + EVENT_OVERHEAD_BYTES


class EventLog:
    """Append-only at the end; its oldest events may be dropped.

    Invariants: events num_dropped + 1 to num_events are held, in order; `size` is the sum of their sizes; nothing is
    appended after the end.
    """

    def __init__(self) -> None:
        self.num_dropped = 0
        self.size = 0  # bytes
        self.has_ended = False
        self._events: deque[bytes] = deque()
        self._news = asyncio.Event()

    @property
    def num_events(self) -> int:
        """How many there have been; the number of the last one."""
        return self.num_dropped + len(self._events)

    def append(self, event: bytes) -> None:
        assert not self.has_ended
        self._events.append(event)
        self.size += event_size(event)
        self._announce()

    def end(self) -> None:
        """No event comes after this. Does nothing the second time."""
        self.has_ended = True
        self._announce()

    def drop_oldest(self) -> int:
        """Forget the oldest event that is held; how many bytes that frees."""
        freed = event_size(self._events.popleft())
        self.num_dropped += 1
        self.size -= freed
        return freed

    def after(self, number: int, max_bytes: int) -> list[bytes]:
        """The events behind event `number`: at least one if there is one, else as many as `max_bytes` hold.

        Raises EventsDropped if the first of them is no longer held.
        """
        if number < self.num_dropped:
            raise EventsDropped(
                f"the stream's events {number + 1} to {self.num_dropped} are no longer stored; start again, or keep "
                "more with --stream-log-bytes"
            )
        taken: list[bytes] = []
        size = 0
        for event in islice(self._events, number - self.num_dropped, None):
            size += event_size(event)
            if taken and size > max_bytes:
                break
            taken.append(event)
        return taken

    async def changed(self, number: int) -> None:
        """Wait until there is an event behind `number`, or no more will come."""
        while self.num_events <= number and not self.has_ended:
            await self._news.wait()

    def check(self) -> None:
        """Assert the invariants."""
        assert self.size == sum(map(event_size, self._events))

    def _announce(self) -> None:
        self._news.set()
        self._news = asyncio.Event()
