"""EventLog: the numbered events of one stream, for readers that connect, leave and reconnect."""

import asyncio
from collections import deque
from itertools import islice

from server.errors import EventsDropped

EVENT_OVERHEAD_BYTES = 64  # of the object around an event's bytes


def event_size(event: bytes) -> int:
    return len(event) + EVENT_OVERHEAD_BYTES


class EventLog:
    """A stream's events, numbered from 1. Events are appended at the end, and the oldest may be dropped.

    Invariants: events num_dropped + 1 to num_events are held, in order; `size` is the sum of their sizes; nothing is
    appended after the end.
    """

    def __init__(self) -> None:
        self.num_dropped = 0
        self.size = 0  # bytes
        self.has_ended = False
        self._events: deque[bytes] = deque()
        self._changed = asyncio.Event()

    @property
    def num_events(self) -> int:
        """The number of events so far, dropped ones included, which is the number of the last event."""
        return self.num_dropped + len(self._events)

    def append(self, event: bytes) -> None:
        assert not self.has_ended
        self._events.append(event)
        self.size += event_size(event)
        self._notify()

    def end(self) -> None:
        """End the log: no event may be appended after this. Idempotent."""
        self.has_ended = True
        self._notify()

    def drop_oldest(self) -> int:
        """Drop the oldest event that is held; return the number of bytes freed."""
        freed = event_size(self._events.popleft())
        self.num_dropped += 1
        self.size -= freed
        return freed

    def after(self, number: int, max_bytes: int) -> list[bytes]:
        """Return the events after event `number`: up to `max_bytes`, but at least one if there is one.

        Raises EventsDropped if event `number` + 1 is no longer held.
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

    async def wait_after(self, number: int) -> None:
        """Wait for an event after event `number`, or for the end of the log."""
        while self.num_events <= number and not self.has_ended:
            await self._changed.wait()

    def check(self) -> None:
        """Assert the invariants."""
        assert self.size == sum(map(event_size, self._events))

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
