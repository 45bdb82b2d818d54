"""BatchLane: how many requests of batches the engine has at once beside those of clients, and when they are made."""

import asyncio
import contextlib
import math
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable

_LINES_PER_PLACE = 2  # as many again as can run, so that a line that ends is followed by one that is there
_LOOK_S = 0.02  # from one look for clients to the next


class BatchLane:
    """Feeders wait in it for room, first come, first served; nobody is refused.

    What stands in the engine's queue costs a step nothing, but each line is a task and a prompt in memory. And to
    prepare one (to render and tokenize it) takes the event loop and the processors from clients: so it is done for one
    at a time, and for none while clients have work. The engine has enough lines for the time after that.

    Invariant: no more than the limit have room, unless one alone is larger; and nobody waits who would fit.
    """

    def __init__(
        self,
        limit: int | None = None,
        *,
        has_clients: Callable[[], bool] = lambda: False,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        """limit: of requests; None is twice as many as an engine runs at once. has_clients: whether the engine has
        requests of clients."""
        self._given = limit
        self._limit = limit or 1
        self._has_clients = has_clients
        self._sleep = sleep
        self._num_taken = 0
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()
        self._turn = asyncio.Lock()

    @property
    def num_taken(self) -> int:
        """Requests that have room."""
        return self._num_taken

    def open(self, max_num_seqs: int) -> None:
        """An engine is ready, which runs up to `max_num_seqs` sequences at once."""
        self._limit = self._given or _LINES_PER_PLACE * max_num_seqs
        self._admit()

    async def quiet(self, at_most_s: float = math.inf) -> None:
        """Return when no client has work, or after so long."""
        waited_s = 0.0
        while self._has_clients() and waited_s < at_most_s:
            await self._sleep(_LOOK_S)
            waited_s += _LOOK_S

    @contextlib.asynccontextmanager
    async def preparing(self) -> AsyncIterator[None]:
        """Within it one line is prepared. Its turn comes when no client has work."""
        async with self._turn:
            await asyncio.sleep(0)  # what has come over the network meanwhile goes first
            await self.quiet()
            yield

    @contextlib.asynccontextmanager
    async def room(self, num_requests: int = 1) -> AsyncIterator[None]:
        """Within it there is room for `num_requests`, which one line may have."""
        await self._take(num_requests)
        try:
            yield
        finally:
            self._give_back(num_requests)

    async def _take(self, num_requests: int) -> None:
        if not self._waiting and self._fits(num_requests):
            self._num_taken += num_requests
            return
        waiter = (num_requests, asyncio.get_running_loop().create_future())
        self._waiting.append(waiter)
        try:
            await waiter[1]
        except asyncio.CancelledError:
            if waiter in self._waiting:
                self._waiting.remove(waiter)
                self._admit()
            else:  # it was let in before it knew
                self._give_back(num_requests)
            raise

    def _fits(self, num_requests: int) -> bool:
        return self._num_taken == 0 or self._num_taken + num_requests <= self._limit

    def _give_back(self, num_requests: int) -> None:
        self._num_taken -= num_requests
        self._admit()

    def _admit(self) -> None:
        while self._waiting and self._fits(self._waiting[0][0]):
            num_requests, future = self._waiting.popleft()
            self._num_taken += num_requests
            if not future.done():
                future.set_result(None)

    def check(self) -> None:
        """Assert the invariant."""
        assert self._num_taken >= 0
        assert not self._waiting or not self._fits(self._waiting[0][0])
