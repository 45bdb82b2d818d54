"""Pulls: starts, joins and ends fetches of models, a few at a time."""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, Callable, Sequence

from rich.filesize import decimal

from engine.command_io.pulling import Pulled, PullMachine, PullProgress
from engine.errors import HeadraceError
from server.errors import NotStored, TooManyPulls
from server.metrics.values import Metrics
from server.pulling.names import PullNames
from server.pulling.process import fetch_in_process
from server.pulling.pull import Pull
from server.schemas.pulls import PullReport, PullState

logger = logging.getLogger(__name__)

_MAX_RUNNING = 2  # each is a process with torch
_MAX_OPEN = 16
_MAX_ENDED = 20  # that are still listed

Fetch = Callable[[str], AsyncGenerator[PullMachine | PullProgress | Pulled]]


class Pulls:
    """The pulls of one server: of each model at most one is open. All methods run on one event loop."""

    def __init__(self, patterns: Sequence[str], metrics: Metrics, fetch: Fetch = fetch_in_process) -> None:
        """patterns: of --pull-allow. fetch: yields the messages of one fetch, which ends when it is closed."""
        self.names = PullNames(patterns)
        self._metrics = metrics
        self._fetch = fetch
        self._slots = asyncio.Semaphore(_MAX_RUNNING)
        self._pulls: dict[str, Pull] = {}  # by id, oldest first

    @property
    def num_watchers(self) -> int:
        return sum(pull.num_watchers for pull in self._pulls.values())

    def report(self) -> PullReport:
        return PullReport(list(self.names.patterns), [pull.view() for pull in reversed(self._pulls.values())])

    def start(self, name: str, *, is_kept: bool) -> Pull:
        """Fetch the model that a client calls `name`, or return the open pull of that model.

        is_kept: the pull continues when no client watches it. Raises NotServed, InvalidRequest, PullNotAllowed and
        TooManyPulls.
        """
        model = self.names.check(name)
        open_pulls = [pull for pull in self._pulls.values() if pull.is_open]
        found = next((pull for pull in open_pulls if pull.model == model and not pull.is_stopping), None)
        if found is not None:
            found.is_kept |= is_kept
            return found
        if len(open_pulls) >= _MAX_OPEN:
            raise TooManyPulls(f"{_MAX_OPEN} models are being fetched or wait for it; try again when one is complete")
        pull = Pull(model, is_kept)
        self._pulls[pull.id] = pull
        pull.task = asyncio.create_task(self._run(pull), name=f"pull {model}")
        pull.task.add_done_callback(lambda task: self._on_done(pull, is_stopped=task.cancelled()))
        self._forget_old()
        return pull

    def stop(self, pull_id: str) -> Pull:
        """Stop a pull, whose next one resumes. Raises NotStored. No effect if it has ended."""
        if (pull := self._pulls.get(pull_id)) is None:
            raise NotStored(f"there is no pull {pull_id!r:.60}; GET /dashboard/pulls lists those of this server")
        pull.stop()
        return pull

    async def close(self) -> None:
        """Stop all pulls."""
        tasks = [pull.task for pull in self._pulls.values() if pull.task is not None]
        for pull in self._pulls.values():
            pull.stop()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self, pull: Pull) -> None:
        try:
            if self._slots.locked():
                pull.wait()
            async with self._slots:
                pull.begin()
                logger.info("pulling the model %s", pull.model)
                self._count_running()
                async with contextlib.aclosing(self._fetch(pull.model)) as messages:
                    async for message in messages:
                        pull.on_message(message)
        except HeadraceError as error:
            logger.warning("pulling the model %s failed: %s", pull.model, error)
            self._end(pull, "failed", str(error))
        except Exception:  # the boundary of a task
            logger.exception("pulling the model %s failed with an internal error", pull.model)
            self._end(pull, "failed", "an internal error; the log has the details")
        else:
            assert pull.result is not None, "a fetch without a result raises"
            took_s = time.monotonic() - pull.began_s
            size = decimal(pull.result.size_bytes)
            logger.info("pulled the model %s: %s in %.1f s", pull.model, size, took_s)
            self._end(pull, "complete")

    def _on_done(self, pull: Pull, *, is_stopped: bool) -> None:
        if is_stopped:  # perhaps before it began
            logger.info("stopped pulling the model %s; the next pull of it resumes", pull.model)
            self._end(pull, "stopped", "the pull was stopped; the next one resumes")

    def _end(self, pull: Pull, state: PullState, error: str | None = None) -> None:
        pull.end(state, error)
        self._metrics.add("pulls_total", 1, state)
        self._count_running()

    def _count_running(self) -> None:
        self._metrics.set("pulls_running", sum(pull.state == "running" for pull in self._pulls.values()))

    def _forget_old(self) -> None:
        ended = [pull.id for pull in self._pulls.values() if not pull.is_open]
        for pull_id in ended[: max(0, len(ended) - _MAX_ENDED)]:
            del self._pulls[pull_id]
