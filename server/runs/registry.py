"""Runs: the resumable streams of a server, within one memory limit for all their logs."""

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator

from server.errors import StreamNotFound
from server.metrics.values import Metrics
from server.runs.run import Run, RunOptions
from server.schemas.base import quote

_RUN_BYTES = 4096  # of a run without events: its task, and its source


def new_stream_id() -> str:
    """Return a random stream id that cannot be guessed."""
    return f"stream_{secrets.token_hex(24)}"


class Runs:
    """The resumable streams of a server. A run without a reader is removed after the grace time, ended or not, or
    sooner if a reader has asked for that.

    Invariants: `used_bytes` is the size of all logs, plus _RUN_BYTES for each run. A run has a removal timer if and
    only if it has no reader, and is not pinned or has ended.
    """

    def __init__(self, max_bytes: int, grace_s: float, metrics: Metrics) -> None:
        self.used_bytes = 0
        self._max_bytes = max_bytes
        self._grace_s = grace_s
        self._metrics = metrics
        self._runs: dict[str, Run] = {}
        self._pinned: set[str] = set()
        self._timers: dict[str, asyncio.TimerHandle] = {}  # the first one fires first

    def start(
        self,
        options: RunOptions,
        events: AsyncIterator[bytes],
        source: contextlib.AsyncExitStack,
        *,
        is_pinned: bool = False,
    ) -> Run:
        """Start a run of `events`, and close `source` when it ends. A pinned run continues without a reader."""
        run = Run(options, self, self._on_change, self._grace_s)
        self._runs[run.id] = run
        if is_pinned:
            self._pinned.add(run.id)
        if not self.try_reserve(_RUN_BYTES):
            self.reserve(_RUN_BYTES)
        run.start(events, source)
        self._on_change(run)
        return run

    def get(self, run_id: str, owner: str) -> Run:
        """Return the owner's run. Raises StreamNotFound, also for another owner's run."""
        run = self.find(run_id, owner)
        if run is None:
            raise StreamNotFound(
                f"there is no stream {quote(run_id)} here: it never existed, was deleted, or its client stayed away "
                "for longer than --stream-resume-grace"
            )
        return run

    def find(self, run_id: str, owner: str) -> Run | None:
        """Return the owner's run; None if there is no such run."""
        run = self._runs.get(run_id)
        return run if run is not None and run.options.owner == owner else None

    async def delete(self, run: Run) -> None:
        """Cancel the run and remove it. Wait until its source is closed, which frees its slot in the engine."""
        self._forget(run)
        await run.wait_until_ended()

    async def finish(self, timeout_s: float) -> None:
        """Wait until every run has ended, at most `timeout_s`."""
        ending = {asyncio.ensure_future(run.wait_until_ended()) for run in self._runs.values()}
        if ending:
            await asyncio.wait(ending, timeout=timeout_s)

    def count_resumed(self) -> None:
        self._metrics.add("streams_resumed_total", 1)

    # --- the memory of all logs ---------------------------------------------------------------------------------------

    def try_reserve(self, size: int) -> bool:
        """Reserve `size` more bytes, or return False. To free memory, ended runs without a reader are removed, the
        longest without one first."""
        if self.used_bytes + size > self._max_bytes:
            for run_id in list(self._timers):
                if self._runs[run_id].log.has_ended:
                    self._forget(self._runs[run_id])
                    if self.used_bytes + size <= self._max_bytes:
                        break
            else:
                return False
        self.reserve(size)
        return True

    def reserve(self, size: int) -> None:
        self.used_bytes += size
        self._metrics.set("stream_log_bytes", self.used_bytes)

    def release(self, size: int) -> None:
        self.reserve(-size)

    # --- runs without readers -----------------------------------------------------------------------------------------

    def shorten_grace(self, run: Run, grace_s: float) -> None:
        """Remove the run after `grace_s` seconds without a reader, if that is less than the grace time. A reader that
        comes back before gives it the whole grace time again."""
        run.grace_s = min(grace_s, run.grace_s)
        timer = self._timers.get(run.id)
        loop = asyncio.get_running_loop()
        if timer is not None and timer.when() > loop.time() + run.grace_s:
            self._start_timer(run)
        loop.call_later(grace_s, self._restore_grace, run)

    def _restore_grace(self, run: Run) -> None:
        """Undo `shorten_grace` if a reader came back before the call, and has stayed."""
        if run.has_readers:
            run.grace_s = self._grace_s

    def _on_change(self, run: Run) -> None:
        if self._runs.get(run.id) is not run:
            return
        self._measure()
        if run.has_readers:
            run.grace_s = self._grace_s
        if run.has_readers or (run.id in self._pinned and not run.log.has_ended):
            self._stop_timer(run)
        else:
            self._start_timer(run)

    def _start_timer(self, run: Run) -> None:
        self._stop_timer(run)
        loop = asyncio.get_running_loop()
        self._timers[run.id] = loop.call_later(run.grace_s, self._on_grace_over, run)

    def _stop_timer(self, run: Run) -> None:
        if (timer := self._timers.pop(run.id, None)) is not None:
            timer.cancel()

    def _on_grace_over(self, run: Run) -> None:
        del self._timers[run.id]
        self._forget(run)

    def _forget(self, run: Run) -> None:
        if self._runs.get(run.id) is not run:
            return
        del self._runs[run.id]
        run.cancel()
        self._pinned.discard(run.id)
        self._stop_timer(run)
        self.release(run.log.size + _RUN_BYTES)
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
