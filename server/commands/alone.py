"""An engine that a command has for itself, from its start to its end; and work in parallel, with its progress."""

import asyncio
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from rich.console import Console

from engine.command_io.stage_bars import StageBars
from engine.command_io.stage_lines import StageLines
from engine.config import EngineConfig
from engine.errors import StartupError
from server.commands.lifespan.engines import OneEngine
from server.commands.serve.shared_terminal import can_draw
from server.commands.serve.signals import catch_signals, unless
from server.config.server import LogLevel, ServerConfig
from server.metrics.values import Metrics
from server.text.chat_templates.processes import TemplateProcesses

if TYPE_CHECKING:
    from server.context import ServerContext

REQUESTS_PER_SLOT = 2  # of the engine, so that a finished request is immediately followed by another

T = TypeVar("T")


class Interrupted(Exception):
    """A signal ended the command."""

    def __init__(self, number: signal.Signals) -> None:
        super().__init__(number.name)
        self.exit_code = 128 + number


async def run_alone(
    server: ServerConfig,
    engine: EngineConfig,
    templates: TemplateProcesses,
    began_s: float,
    work: "Callable[[ServerContext], Coroutine[Any, Any, T]]",
    *,
    remedy: str,
) -> T:
    """Start an engine, run the work once it is loaded, and stop it. remedy: the command's, if the engine dies.

    Raises Interrupted, and StartupError if the engine cannot be started or dies for good.
    """
    stop = catch_signals()
    name = server.model_entries(engine)[0].name
    metrics = Metrics(name)
    engines = OneEngine(name, server, engine, metrics, began_s)
    await engines.start()
    try:
        templates.begin()
        from server.app import create_app

        context = create_app(engines.clients, server, engine, metrics, templates=templates).state.context
        engines.context = context
        if await unless(stop, engines.wait_loaded()) is None:
            raise Interrupted(stop.result())
        result = await unless(stop, _until_dead(engines, work(context), remedy))
        if result is None:
            raise Interrupted(stop.result())
        return result
    finally:
        await engines.stop()
        if engines.context is not None:
            engines.context.workers.close()


async def _until_dead(engines: OneEngine, work: Coroutine[Any, Any, T], remedy: str) -> T:
    """Return the work's result. Raises StartupError if the engine dies for good before."""
    working = asyncio.ensure_future(work)
    dead = asyncio.ensure_future(engines.wait_dead())
    try:
        await asyncio.wait({working, dead}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise StartupError(f"{dead.result()}; {remedy}")
        return working.result()
    finally:
        for task in (working, dead):
            task.cancel()
        await asyncio.gather(working, dead, return_exceptions=True)


async def in_parallel(items: Sequence[T], one: Callable[[T], Awaitable[None]], num_parallel: int) -> None:
    """Await `one` for each item, `num_parallel` at a time; the first exception ends all."""
    left = iter(items)

    async def some() -> None:
        for item in left:
            await one(item)

    tasks = [asyncio.create_task(some()) for _ in range(min(num_parallel, len(items)))]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class LineProgress:
    """Progress of lines: a bar on a terminal, log lines elsewhere. Must be created before the engine, since loading
    replaces stderr by a pipe."""

    def __init__(self, server: ServerConfig, num_lines: int, num_before: int = 0, stage: str = "answer lines") -> None:
        """num_before: lines that have been answered before."""
        self._num_lines = num_lines
        self._num_before = num_before
        self._stage = stage
        self._is_logged = server.log_level in (LogLevel.DEBUG, LogLevel.INFO)
        self._is_drawn = can_draw(server.log_format)
        self._show: StageBars | StageLines | None = None
        self.num_answered = 0

    def __enter__(self) -> "LineProgress":
        if self._is_drawn:
            self._show = StageBars(Console(stderr=True, highlight=False))
        elif self._is_logged:
            self._show = StageLines(say)
        self.show(0)
        return self

    def show(self, num_answered: int) -> None:
        self.num_answered = num_answered
        if self._show is not None:
            self._show(self._stage, self._num_before + num_answered, self._num_lines, "lines")

    def __exit__(self, *_: object) -> None:
        if self._show is not None:
            self._show.close()
            self._show = None


def say(line: str) -> None:
    """Write a line to stderr."""
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()
