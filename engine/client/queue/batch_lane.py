"""BatchLane: limits how many lines of batches the engine has at a time, and when lines are prepared."""

import asyncio
import contextlib
import math
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable

_LINES_PER_SLOT = 2  # twice as many as can run, so that the next line is there when one ends
_POLL_S = 0.02  # from one check for clients' requests to the next


class BatchLane:
    """A limit on lines of batches in the engine; batches wait for room, first come, first served.

    Lines in the engine's queue cost a step nothing, but each is a task and a prompt in memory. To prepare a line (to
    render and tokenize it) takes the event loop and the processors from clients. So one line is prepared at a time, and
    none while clients have work; the prepared lines in the engine's queue keep it busy when the clients' work ends.

    Invariants: the lines in the engine are within the limit, unless a single line exceeds it; and no line waits for
    which there is room.
    """

    def __init__(
        self,
        limit: int | None = None,
        *,
        has_clients: Callable[[], bool] = lambda: False,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        """limit: number of requests; None means twice the number that the engine runs at a time. has_clients:
        returns whether the engine has requests of clients."""
        self._given = limit
        self._limit = limit or 1
        self._has_clients = has_clients
        self._sleep = sleep
        self.num_taken = 0  # requests that have room
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()
        self._turn = asyncio.Lock()

    def open(self, max_num_seqs: int) -> None:
        """Set the limit for an engine that runs up to `max_num_seqs` sequences at a time."""
        self._limit = self._given or _LINES_PER_SLOT * max_num_seqs
        self._admit()

    async def quiet(self, at_most_s: float = math.inf) -> None:
        """Wait until the engine has no requests of clients, but at most `at_most_s`."""
        waited_s = 0.0
        while self._has_clients() and waited_s < at_most_s:
            await self._sleep(_POLL_S)
            waited_s += _POLL_S

    @contextlib.asynccontextmanager
    async def preparing(self) -> AsyncIterator[None]:
        """Wait for the turn to prepare a line: one line at a time, and only while no client has work."""
        async with self._turn:
            await asyncio.sleep(0)  # clients' requests that have come over the network meanwhile go first
            await self.quiet()
            yield

    @contextlib.asynccontextmanager
    async def room(self, num_requests: int = 1) -> AsyncIterator[None]:
        """Wait for room for the requests of one line, and hold it while the context lasts."""
        await self._take(num_requests)
        try:
            yield
        finally:
            self._give_back(num_requests)

    async def _take(self, num_requests: int) -> None:
        if not self._waiting and self._fits(num_requests):
            self.num_taken += num_requests
            return
        waiter = (num_requests, asyncio.get_running_loop().create_future())
        self._waiting.append(waiter)
        try:
            await waiter[1]
        except asyncio.CancelledError:
            if waiter in self._waiting:
                self._waiting.remove(waiter)
                self._admit()
            else:  # it was admitted before it was canceled
                self._give_back(num_requests)
            raise

    def _fits(self, num_requests: int) -> bool:
        return self.num_taken == 0 or self.num_taken + num_requests <= self._limit

    def _give_back(self, num_requests: int) -> None:
        self.num_taken -= num_requests
        self._admit()

    def _admit(self) -> None:
        while self._waiting and self._fits(self._waiting[0][0]):
            num_requests, future = self._waiting.popleft()
            self.num_taken += num_requests
            if not future.done():
                future.set_result(None)

    def check(self) -> None:
        assert self.num_taken >= 0
        assert not self._waiting or not self._fits(self._waiting[0][0])
