"""LineSlots: limits the lines that run at the same time on a model, and shares the slots fairly among batches."""

import asyncio
from collections import Counter, deque


class LineSlots:
    """A semaphore that is fair to batches: a slot goes to the waiter whose batch holds the fewest, oldest first."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._taken: Counter[str] = Counter()
        self._waiting: deque[tuple[str, asyncio.Future[None]]] = deque()

    @property
    def num_taken(self) -> int:
        return self._taken.total()

    async def acquire(self, batch_id: str) -> None:
        """Wait for a slot, and take it for the batch."""
        waiter = (batch_id, asyncio.get_running_loop().create_future())
        self._waiting.append(waiter)
        self._admit()
        try:
            await waiter[1]
        except asyncio.CancelledError:
            if waiter in self._waiting:
                self._waiting.remove(waiter)
            else:  # it was admitted before its task ran
                self.release(batch_id)
            raise

    def release(self, batch_id: str) -> None:
        self._taken[batch_id] -= 1
        if not self._taken[batch_id]:
            del self._taken[batch_id]
        self._admit()

    def change_limit(self, limit: int) -> None:
        self.limit = limit
        self._admit()

    def _admit(self) -> None:
        while self._waiting and self.num_taken < self.limit:
            waiter = min(self._waiting, key=lambda each: self._taken[each[0]])
            self._waiting.remove(waiter)
            batch_id, future = waiter
            self._taken[batch_id] += 1
            if not future.done():  # else its task was canceled, and releases the slot
                future.set_result(None)

    def check(self) -> None:
        """Assert the invariants."""
        assert all(count > 0 for count in self._taken.values())
        assert not self._waiting or self.num_taken >= self.limit
