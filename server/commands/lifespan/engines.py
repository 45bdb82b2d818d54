"""Engines: interface that starts, awaits and stops a server's engines; OneEngine: the implementation for one model."""

import logging
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Protocol

from engine.client.fork_server import ForkServer, can_fork
from engine.client.interface import EngineCallbacks, EngineClient, EngineEnd
from engine.client.process_client import ProcessClient
from engine.config import EngineConfig
from engine.protocol import EngineInfo, Loading, StepStats, TokenizerInfo
from server.commands.serve.loading_display import loading_display
from server.config.server import ServerConfig
from server.metrics.values import Metrics

if TYPE_CHECKING:
    from server.context import ServerContext
    from server.served.adapters import ServedAdapters
    from server.served.model import ServedModel
    from server.text_model import TextModel

logger = logging.getLogger(__name__)

FIRST_PHASE = "start processes"  # until the first message of the engine process
LAST_PHASE = "prepare text"  # tokenizer and chat template, if they are not ready when the engine is


class Engines(Protocol):
    """Starts, awaits and stops the engines of a server. `context` must be set before an engine sends data."""

    context: "ServerContext | None"

    @property
    def clients(self) -> Mapping[str, EngineClient]:
        """Engine clients by model name."""

    @property
    def label(self) -> str:
        """The names of the models, for messages."""

    async def start(self) -> None:
        """Start the engine processes that do not need `context`."""

    async def wait_loaded(self) -> "TextModel":
        """Load the startup models; return the first one's TextModel. Raises StartupError or OptionError."""

    async def wait_dead(self) -> str:
        """Wait until no model can be served any more, and return the reason."""

    async def stop(self) -> None:
        """Stop the engines immediately; open streams raise EngineStopped."""


def engine_client(
    server: ServerConfig,
    config: EngineConfig,
    metrics: Metrics,
    model: "Callable[[], ServedModel]",
    on_loading: Callable[[Loading], None],
    on_restart: Callable[[EngineEnd], None],
    fork_server: ForkServer | None = None,
) -> ProcessClient:
    """Create a client, not yet started, that reports to `metrics` and to the served model. model: called only after the
    engine process has sent its tokenizer. fork_server: forks the engine process, if that may be forked."""

    def on_step(stats: StepStats) -> None:
        metrics.on_step(stats)
        model().live.on_step(stats)

    def on_tokenizer(info: TokenizerInfo) -> None:
        model().start_text_model(info)

    def on_ready(info: EngineInfo) -> None:
        metrics.on_ready(info, has_prefix_cache=config.enable_prefix_caching)
        model().prefixes.engine_is_ready(model().client)

    return ProcessClient(
        config,
        max_num_waiting=server.max_num_waiting,
        max_num_waiting_tokens=server.max_num_waiting_tokens,
        max_num_batch_requests=server.max_num_batch_requests,
        hang_timeout_s=server.engine_hang_timeout,
        callbacks=EngineCallbacks(
            on_step=on_step,
            on_loading=on_loading,
            on_tokenizer=on_tokenizer,
            on_restart=on_restart,
            on_discarded=partial(metrics.add, "discarded_tokens_total"),
            on_first_token=metrics.on_first_token,
            on_process=metrics.on_process,
            on_ready=on_ready,
        ),
        fork_server=fork_server if can_fork(config) else None,
    )


class StartupTimes:
    """Measures the phases of a start, from the engine's Loading messages. Each phase ends where the next starts."""

    def __init__(self, began_s: float, record: Callable[[str, float], None]) -> None:
        """began_s: from time.monotonic(). record: called with the name and seconds of each phase when it ends."""
        self._phase = FIRST_PHASE
        self._began_s = began_s
        self._record = record

    def show(self, loading: Loading) -> None:
        """Start the phase that a Loading message reports, unless it is the current one."""
        if loading.stage != self._phase:
            self.begin(loading.stage, loading.sent_s)

    def begin(self, phase: str, at_s: float) -> None:
        """End the current phase and start the next one at `at_s`."""
        self._record(self._phase, max(0.0, at_s - self._began_s))
        self._phase, self._began_s = phase, at_s

    def end(self, at_s: float) -> None:
        """End the last phase."""
        self._record(self._phase, max(0.0, at_s - self._began_s))


class OneEngine:
    """The engine of a server with one model. The server times its start, and ends when the engine dies for good."""

    def __init__(
        self,
        name: str,
        server: ServerConfig,
        engine: EngineConfig,
        metrics: Metrics,
        began_s: float,
        fork_server: ForkServer | None = None,
    ) -> None:
        self.context: ServerContext | None = None
        self.label = engine.model
        self._display = loading_display(server.log_format)
        self._times = StartupTimes(began_s, metrics.on_startup_phase)
        self._fork_server = fork_server
        self._is_first = True  # until the engine is restarted
        self._client = engine_client(
            server, engine, metrics, lambda: self._model, self._on_loading, self._on_restart, fork_server
        )
        self.clients: Mapping[str, EngineClient] = {name: self._client}

    async def start(self) -> None:
        await self._client.start()

    async def wait_loaded(self) -> "TextModel":
        try:
            await self._client.wait_ready()
            self._times.begin(LAST_PHASE, time.monotonic())
            text_model = await self._model.prepare_text()
            await prepare_adapters(self._context.models.adapters, self._model)
            self._times.end(time.monotonic())
            return text_model
        finally:
            self._display.close()

    async def wait_dead(self) -> str:
        return await self._client.wait_dead()

    async def stop(self) -> None:
        await self._client.stop()
        if self._fork_server is not None:
            self._fork_server.close()  # a thread may still wait for its imports

    @property
    def _context(self) -> "ServerContext":
        assert self.context is not None
        return self.context

    @property
    def _model(self) -> "ServedModel":
        return self._context.models.default

    def _on_loading(self, loading: Loading) -> None:
        self._display.show(loading)
        if self._is_first:
            self._times.show(loading)

    def _on_restart(self, end: EngineEnd) -> None:
        self._is_first = False
        if self.context is not None:
            note_restart(self.context, self._model, end)


async def prepare_adapters(adapters: "ServedAdapters", model: "ServedModel") -> None:
    """Read the adapters of a loaded model, and check --calibration against all. Raises StartupError."""
    from server.decisions.calibrating import check_given  # with the application, which is imported during a load

    await adapters.read_all(model)
    await check_given(model, adapters)


def note_restart(context: "ServerContext", model: "ServedModel", end: EngineEnd) -> None:
    model.metrics.add("engine_restarts_total", 1, end.reason.value)
    model.live.requests.engine_ended(end)
    context.history.engine_ended(model.name, end)
    if context.tracing is not None:
        context.tracing.note_restart(end.reason)
