"""JobEnvironment: the resources that all background jobs of a server share."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from engine.errors import EngineUnavailable
from server.config.finetuning import FinetuningYield
from server.context import ServerContext
from server.files.store import Files
from server.jobs.answers import BodyAnswer
from server.jobs.child import Child, ChildEnding, StartChild, start_child
from server.jobs.idle_gate import IdleGate
from server.jobs.persistence import shielded
from server.keys.caller import Caller
from server.metrics.values import Metrics
from server.served.models import ServedModels

Sleep = Callable[[float], Awaitable[Any]]
# Answers the body of a request for a caller, by an endpoint's path, as work for which no client waits; sleeps with the
# given function in between. Raises EngineStopped if the server ends before.
AnswerBody = Callable[[Caller, str, dict[str, Any], Sleep], Awaitable[BodyAnswer]]

_LOOK_S = 1.0  # at a process that cannot start yet


@dataclass(frozen=True, slots=True)
class JobEnvironment:
    """Resources of all jobs. answer: answers a request body that did not come over HTTP. gate: suspends child processes
    while clients have work. start_child: starts a child process. sleep: waits between retries."""

    context: ServerContext
    answer: AnswerBody
    gate: IdleGate
    start_child: StartChild
    sleep: Sleep

    @property
    def files(self) -> Files:
        return self.context.files

    @property
    def models(self) -> ServedModels:
        return self.context.models

    @property
    def metrics(self) -> Metrics:
        """The metrics of the first model."""
        return self.context.metrics

    @property
    def data_dir(self) -> str:
        """The folder of --data-dir. Kinds of jobs that need it are unavailable without the option."""
        data_dir = self.context.config.data_dir
        assert data_dir is not None
        return data_dir

    @property
    def gives_way(self) -> bool:
        """Whether child processes run at a lower priority than the server."""
        return self.context.config.finetuning.finetune_yield is not FinetuningYield.NEVER

    def find_caller(self, owner: str) -> Caller | None:
        """Return the caller that owns a job; None while no key of the owner is accepted."""
        return self.context.keys.ring.batch_caller(owner)

    async def wait_until_quiet(self, model: str | None, at_most_s: float) -> None:
        """Wait until no client of the model has work, or for the given seconds. A model whose engine is unavailable
        counts as having no work."""
        with contextlib.suppress(EngineUnavailable):
            await self.models.get_or_default(model).client.batch_lane.quiet(at_most_s)

    @contextlib.asynccontextmanager
    async def child(
        self,
        module: str,
        arguments: list[str],
        *,
        lock: Path,
        ending: ChildEnding,
        priority: str,
        look: Callable[[], Awaitable[None]],
    ) -> AsyncIterator[Child]:
        """Run a child process inside the context. It is suspended while clients have work, and ends with the context.

        lock: file that the process locks, so that only one such process runs. ending: how a cancellation ends the
        process. priority: "idle", "low" or "normal". look: called each second while the start waits for clients.
        """
        while not await self._can_start():
            await look()
        child = await self.start_child(module, arguments, lock, priority)
        ending.child = child
        try:
            with self.gate.admitted(child):
                yield child
        except BaseException:  # canceled, or an error of the server's: no reason to lose the work of the process
            if ending.is_saving:
                await shielded(child.end())  # a server that ends cancels again what was paused
            raise
        finally:
            child.kill()
            ending.child = None
            await child.wait()

    async def _can_start(self) -> bool:
        """Wait up to a second for the gate, and return whether it is open. No other task has run since it opened."""
        try:
            async with asyncio.timeout(_LOOK_S):
                await self.gate.wait_until_open()
        except TimeoutError:
            return False
        return True


def new_environment(
    context: ServerContext, answer: AnswerBody, *, start: StartChild = start_child, sleep: Sleep = asyncio.sleep
) -> JobEnvironment:
    """Return the environment of a server's jobs. answer: answers a request body that did not come over HTTP. start:
    starts a child process. sleep: waits between retries."""
    gate = IdleGate(
        lambda: context.models.has_work,
        is_active=context.config.finetuning.finetune_yield is FinetuningYield.ALWAYS,
        count_suspended=partial(context.metrics.add, "finetune_stopped_seconds_total"),
    )
    context.models.arrivals.subscribe(gate.note_request)
    return JobEnvironment(context, answer, gate, start, sleep)
