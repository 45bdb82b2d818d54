"""ServerLife: the life cycle of a server, which is the lifespan of its application.

`headrace serve` runs the application in its own HTTP server, and `headrace fleet` in the replicas of Ray Serve.
"""

import asyncio
import contextlib
import gc
import logging
import time
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from engine.client.fork_server import ForkServer
from engine.config import EngineConfig
from server.commands.lifespan.activity_log import ActivityLog
from server.commands.lifespan.several_engines import engines_of
from server.commands.options.in_force import settings_in_force
from server.config.server import MetricsAlias, ServerConfig
from server.live.gpus import watch_gpus
from server.live.history_file import HistoryFile
from server.live.machine_watch import watch_machine
from server.metrics.loop_lag import watch_loop
from server.metrics.values import Metrics
from server.store.entries import Entries
from server.text.chat_templates.processes import TemplateProcesses
from server.tracing.start import start_tracing

if TYPE_CHECKING:
    from fastapi import FastAPI

    from server.context import ServerContext
    from server.jobs.runner import JobRunner
    from server.text_model import TextModel

logger = logging.getLogger(__name__)

_TRACES_TIMEOUT_S = 3.0  # for sending the rest of the traces
_STORE_TIMEOUT_S = 3.0  # for storing background responses that were ended
_GARBAGE = 20_000  # new objects between collections: what imports make stays, and a step's thousand are short-lived


class ServerLife:
    """The engines, application and background work of one server, from start to end.

    `create_app` is called once. Entering the application's lifespan starts the engines and the background work, but
    does not wait for models; leaving it ends open requests first, then the background work.
    """

    def __init__(
        self,
        server: ServerConfig,
        engine: EngineConfig,
        store: Entries,
        templates: TemplateProcesses,
        began_s: float,
        fork_server: ForkServer | None = None,
    ) -> None:
        """store, templates, fork_server: closed by the caller, after the lifespan. began_s: start of the process, from
        time.monotonic()."""
        self._server = server
        self._engine = engine
        self._store = store
        self._templates = templates
        name = server.model_entries(engine)[0].name
        self.metrics = Metrics(name, has_vllm_names=server.metrics_alias is MetricsAlias.VLLM)
        self._tracing = start_tracing(server.otlp_traces_endpoint, self.metrics.count_spans)
        self.engines = engines_of(server, engine, self.metrics, began_s, fork_server)
        self._have_started = False
        self._have_ended = False
        self._preparing: asyncio.Future[None] | None = None

    @property
    def context(self) -> "ServerContext":
        """The state of the application, which must have been created."""
        assert self.engines.context is not None
        return self.engines.context

    async def start_engines(self) -> None:
        """Start the engine processes, which import their libraries while this process imports the application. Has no
        effect on later calls."""
        if not self._have_started:
            self._have_started = True
            await self.engines.start()
            await asyncio.sleep(0)

    def create_app(self) -> "FastAPI":
        """Create the application, whose lifespan is this object's. Slow, since it imports the application."""
        self._templates.begin()
        gc.set_threshold(_GARBAGE, *gc.get_threshold()[1:])
        from server.app import create_app

        app = create_app(
            self.engines.clients,
            self._server,
            self._engine,
            self.metrics,
            self._store,
            templates=self._templates,
            lifespan=self._lifespan,
        )
        context: ServerContext = app.state.context
        context.tracing = self._tracing
        context.settings = settings_in_force(self._server, self._engine)
        logging.getLogger().addHandler(context.log)
        self.engines.context = context
        return app

    async def wait_loaded(self) -> "TextModel":
        """Load the startup models; return the first one's TextModel. Then warm up its tokenizer for long texts in the
        background, and freeze the garbage collector's existing objects. Raises StartupError or OptionError."""
        text_model = await self.engines.wait_loaded()
        tokenizer = text_model.tokenizer
        preparing = self.context.workers.run(tokenizer.prepare_for_long_texts, size=tokenizer.vocab_size)
        self._preparing = asyncio.ensure_future(preparing)
        gc.freeze()  # existing objects stay; scanning them for garbage would delay streams
        return text_model

    async def end_requests(self) -> None:
        """Refuse new requests, stop the engines, and end open requests with an error. Has no effect on later calls."""
        if self._have_ended:
            return
        self._have_ended = True
        if self._preparing is not None:
            self._preparing.cancel()
        context = self.context
        context.drain.stop(time.monotonic())
        await self.engines.stop()  # running requests end with an error event
        await context.pulls.close()
        await context.runs.finish(_STORE_TIMEOUT_S)
        context.models.close_live_feeds()

    @contextlib.asynccontextmanager
    async def _lifespan(self, _: "FastAPI") -> AsyncIterator[None]:
        await self.start_engines()
        history_file = _history_file(self.context)
        runner = await _job_runner(self.context)
        async with _background_work(self.context, runner, history_file):
            try:
                yield
            finally:
                await self.end_requests()


def _history_file(context: "ServerContext") -> HistoryFile | None:
    """Load the history of the last server in --data-dir, if there is such a folder."""
    if context.config.data_dir is None:
        return None
    file = HistoryFile(context.history, Path(context.config.data_dir))
    file.load()
    return file


async def _job_runner(context: "ServerContext") -> "JobRunner":
    """Return the runner of jobs. With --data-dir, first delete expired responses and orphaned files, and fail
    responses that the last server left unfinished."""
    from server.app import JOB_KINDS
    from server.batches.running import run_body
    from server.jobs.runner import JobRunner
    from server.state.records import fail_interrupted

    runner = JobRunner(context, JOB_KINDS, partial(run_body, context))
    if context.config.data_dir is not None:
        await context.store.expire()
        await runner.sweep()
        if num_interrupted := await fail_interrupted(context.store):
            logger.warning("%d background responses were interrupted when the last server ended", num_interrupted)
    return runner


@contextlib.asynccontextmanager
async def _background_work(
    context: "ServerContext", runner: "JobRunner", history_file: HistoryFile | None
) -> AsyncIterator[None]:
    """Run background tasks within the context: activity log, measurements, jobs, history and the keys' files."""
    names_model = len(context.models) > 1
    work = [
        *(("activity-log", ActivityLog(each, names_model=names_model).run()) for each in context.models.metrics),
        ("loop-lag", watch_loop(partial(context.metrics.observe, "event_loop_lag_seconds"))),
        ("machine", watch_machine(context.machine, context.history)),
        ("gpus", watch_gpus(context.gpus, context.models.gpu_uuids, context.metrics)),
        ("jobs", runner.run()),
    ]
    if history_file is not None:
        work.append(("history", history_file.keep()))
    await runner.prepare()
    watches = [asyncio.create_task(each, name=name) for name, each in work]
    try:
        async with context.keys.running():
            yield
    finally:
        context.workers.close()
        for watch in watches:
            watch.cancel()
        await asyncio.gather(*watches, return_exceptions=True)  # batches store what they have
        if context.tracing is not None:
            await asyncio.to_thread(context.tracing.close, _TRACES_TIMEOUT_S)
