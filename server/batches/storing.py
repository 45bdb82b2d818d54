"""Storing: the answers of one batch on their way to the disk."""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable

from server.batches.output import Output, Result
from server.batches.surroundings import Surroundings
from server.errors import StorageFailed

logger = logging.getLogger(__name__)

RETRY_S = 5.0  # after a disk that failed

_MAX_UNSTORED = 512  # answers that wait to be stored; then no line is begun
_STORE_INTERVAL_S = 0.2  # at least from one storing to the next: each syncs
_MOST_UNSTORED_S = 2.0  # that answers wait to be stored while clients have work


class Storing:
    """Invariant: an answer is here until it counts in the output. `run` stores them as they come."""

    def __init__(self, output: Output, surroundings: Surroundings, on_room: Callable[[], None]) -> None:
        """on_room: called when some are stored."""
        self._output = output
        self._around = surroundings
        self._on_room = on_room
        self._unstored: list[Result] = []
        self._news = asyncio.Event()

    @property
    def is_full(self) -> bool:
        return len(self._unstored) >= _MAX_UNSTORED

    def add(self, result: Result) -> None:
        self._unstored.append(result)
        self._news.set()

    async def run(self) -> None:
        """Store answers as they come, until canceled."""
        while True:
            await self._news.wait()
            self._news.clear()
            while self._unstored:
                await self._around.quiet(self._output.record.model, _MOST_UNSTORED_S)
                await self.persist(self._store_some)
                await self._around.sleep(_STORE_INTERVAL_S)

    async def flush(self) -> None:
        """Store all."""
        while self._unstored:
            await self.persist(self._store_some)

    async def try_once(self) -> None:
        """Store what can be stored at once; the next server runs the other lines again."""
        if self._unstored:
            with contextlib.suppress(StorageFailed):
                await self._store_some()

    async def _store_some(self) -> None:
        results = self._unstored[:_MAX_UNSTORED]
        await self._output.add(results)
        del self._unstored[: len(results)]
        self._on_room()
        num_completed = sum(each.is_completed for each in results)
        self._around.count("completed", num_completed)
        self._around.count("failed", len(results) - num_completed)

    async def persist(self, work: Callable[[], Awaitable[None]]) -> None:
        """Do it until the disk takes it. An attempt that has begun goes on though this is canceled: else nobody would
        know what became of it."""
        has_failed = False
        while True:
            attempt = asyncio.ensure_future(work())
            try:
                return await asyncio.shield(attempt)
            except StorageFailed as error:
                if not has_failed:
                    logger.warning("batch %s waits for the disk: %s", self._output.record.id, error)
                has_failed = True
            except asyncio.CancelledError:
                await asyncio.wait([attempt])
                _ = attempt.exception()  # which is of no use any more
                raise
            await self._around.sleep(RETRY_S)
