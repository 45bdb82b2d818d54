"""Storing: the answers of one batch on their way to the disk."""

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from server.batches.output import Output, Result
from server.errors import StorageFailed
from server.jobs.environment import JobEnvironment
from server.jobs.persistence import persist

T = TypeVar("T")

_MAX_UNSTORED = 512  # answers that wait to be stored; at that number no line starts
_STORE_INTERVAL_S = 0.2  # between two writes, since each is synced
_MAX_UNSTORED_S = 2.0  # for which answers wait to be stored while clients have work


class Storing:
    """Invariant: an answer is here until it counts in the output. `run` stores answers as they come."""

    def __init__(self, output: Output, env: JobEnvironment, on_room: Callable[[], None]) -> None:
        """on_room: called when answers were stored."""
        self._output = output
        self._env = env
        self._on_room = on_room
        self._unstored: list[Result] = []
        self._added = asyncio.Event()

    @property
    def is_full(self) -> bool:
        return len(self._unstored) >= _MAX_UNSTORED

    def add(self, result: Result) -> None:
        self._unstored.append(result)
        self._added.set()

    async def run(self) -> None:
        """Store answers as they come, until canceled."""
        while True:
            await self._added.wait()
            self._added.clear()
            while self._unstored:
                await self._env.wait_until_quiet(self._output.record.model, _MAX_UNSTORED_S)
                await self.persist(self._store_some)
                await self._env.sleep(_STORE_INTERVAL_S)

    async def flush(self) -> None:
        """Store all answers."""
        while self._unstored:
            await self.persist(self._store_some)

    async def try_once(self) -> None:
        """Store the answers that can be stored now; the next server runs the other lines again."""
        if self._unstored:
            with contextlib.suppress(StorageFailed):
                await self._store_some()

    async def _store_some(self) -> None:
        results = self._unstored[:_MAX_UNSTORED]
        await self._output.add(results)
        del self._unstored[: len(results)]
        self._on_room()
        num_completed = sum(each.is_completed for each in results)
        self._env.metrics.count_batch_lines("completed", num_completed)
        self._env.metrics.count_batch_lines("failed", len(results) - num_completed)

    async def persist(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Return what the work returns, which is repeated while the disk fails."""
        return await persist(work, f"batch {self._output.record.id}", sleep=self._env.sleep)
