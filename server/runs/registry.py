"""Runs: all streams of a server that outlive their connections, within one bound of memory."""

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator

from server.errors import StreamNotFound
from server.metrics.values import Metrics
from server.runs.run import Run, RunOptions
from server.schemas.base import quote

_RUN_BYTES = 4096  # of a run without events: its task, what feeds it


def new_stream_id() -> str:
    """An id that nobody can guess: whoever has it may read the stream."""
    return f"stream_{secrets.token_hex(24)}"


class Runs:
    """The runs by id. One without a reader is dropped after the grace time, and stopped if it still runs.

    Invariants: `used_bytes` is what all logs hold, plus _RUN_BYTES for each run; the runs with a timer are those
    without readers, unless they are pinned and still run.
    """

    def __init__(self, max_bytes: int, grace_s: float, metrics: Metrics) -> None:
        self.used_bytes = 0
        self._max_bytes = max_bytes
        self._grace_s = grace_s
        self._metrics = metrics
        self._runs: dict[str, Run] = {}
        self._pinned: set[str] = set()
        self._timers: dict[str, asyncio.TimerHandle] = {}  # the first to fire comes first

    def start(
        self,
        options: RunOptions,
        events: AsyncIterator[bytes],
        source: contextlib.AsyncExitStack,
        *,
        is_pinned: bool = False,
    ) -> Run:
        """Begin a run of `events`, and close `source` when it ends. A pinned one runs to its end without readers."""
        run = Run(options, self, self._on_change)
        self._runs[run.id] = run
        if is_pinned:
            self._pinned.add(run.id)
        if not self.take(_RUN_BYTES):
            self.take_anyway(_RUN_BYTES)
        run.start(events, source)
        self._on_change(run)
        return run

    def get(self, run_id: str, owner: str) -> Run:
        """Raises StreamNotFound, the same for an unknown run and for another owner's."""
        run = self.find(run_id, owner)
        if run is None:
            raise StreamNotFound(
                f"there is no stream {quote(run_id)} here: it never existed, was deleted, or its client stayed away "
                "for longer than --stream-resume-grace"
            )
        return run

    def find(self, run_id: str, owner: str) -> Run | None:
        """The owner's run of this id, if there is one."""
        run = self._runs.get(run_id)
        return run if run is not None and run.options.owner == owner else None

    async def delete(self, run: Run) -> None:
        """Stop the run and forget it. Returns when its place in the engine is free."""
        self._forget(run)
        await run.ended()

    async def finish(self, timeout_s: float) -> None:
        """Wait until every run has ended, for at most so long."""
        ending = {asyncio.ensure_future(run.ended()) for run in self._runs.values()}
        if ending:
            await asyncio.wait(ending, timeout=timeout_s)

    def count_resumed(self) -> None:
        self._metrics.add("streams_resumed_total", 1)

    # --- the memory of all logs ---------------------------------------------------------------------------------------

    def take(self, size: int) -> bool:
        """Whether `size` bytes more may be held. Ended runs without a reader make room, the longest idle first."""
        if self.used_bytes + size > self._max_bytes:
            for run_id in list(self._timers):
                if self._runs[run_id].log.has_ended:
                    self._forget(self._runs[run_id])
                    if self.used_bytes + size <= self._max_bytes:
                        break
            else:
                return False
        self.take_anyway(size)
        return True

    def take_anyway(self, size: int) -> None:
        self.used_bytes += size
        self._metrics.set("stream_log_bytes", self.used_bytes)

    def give_back(self, size: int) -> None:
        self.take_anyway(-size)

    # --- runs without readers -----------------------------------------------------------------------------------------

    def _on_change(self, run: Run) -> None:
        if self._runs.get(run.id) is not run:
            return
        self._measure()
        if (timer := self._timers.pop(run.id, None)) is not None:
            timer.cancel()
        if run.has_readers or (run.id in self._pinned and not run.log.has_ended):
            return
        loop = asyncio.get_running_loop()
        self._timers[run.id] = loop.call_later(self._grace_s, self._on_grace_over, run)

    def _on_grace_over(self, run: Run) -> None:
        del self._timers[run.id]
        self._forget(run)

    def _forget(self, run: Run) -> None:
        if self._runs.get(run.id) is not run:
            return
        del self._runs[run.id]
        run.cancel()
        self._pinned.discard(run.id)
        if (timer := self._timers.pop(run.id, None)) is not None:
            timer.cancel()
        self.give_back(run.log.size + _RUN_BYTES)
        self._measure()

    def _measure(self) -> None:
        self._metrics.set("stream_runs", sum(not run.log.has_ended for run in self._runs.values()))

    def check(self) -> None:
        """Assert the invariants."""
        for run in self._runs.values():
            run.log.check()
            is_kept = run.has_readers or (run.id in self._pinned and not run.log.has_ended)
            assert is_kept != (run.id in self._timers), run.id
        assert self.used_bytes == sum(run.log.size + _RUN_BYTES for run in self._runs.values())
