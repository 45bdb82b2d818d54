"""OneEngine: that of a server with one model; and what the life of a server asks of its engines."""

import dataclasses
import logging
import time
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Protocol

from engine.client.interface import EngineCallbacks, EngineClient, RestartReason
from engine.client.process_client import ProcessClient
from engine.config import EngineConfig
from engine.protocol import Loading, StepStats, TokenizerInfo
from server.commands.serve.loading_display import loading_display
from server.commands.serve.startup_times import LAST_PHASE, StartupTimes
from server.config.server import ServerConfig
from server.metrics.values import Metrics

if TYPE_CHECKING:
    from server.context import ServerContext
    from server.served.model import ServedModel
    from server.text_model import TextModel

logger = logging.getLogger(__name__)


class Engines(Protocol):
    """What the life of the server asks of them. `context` is set before anything of an engine is read."""

    context: "ServerContext | None"

    @property
    def clients(self) -> Mapping[str, EngineClient]:
        """By the models' names."""

    @property
    def what(self) -> str:
        """What is loaded, for people."""

    async def begin(self) -> None:
        """Start what can be started before there is a context."""

    async def finish(self) -> "TextModel":
        """Return when the models of the start are loaded; the first one's way with text. Raises StartupError, or
        OptionError."""

    async def wait_dead(self) -> str:
        """Return the reason once there is nothing left to serve."""

    async def stop(self) -> None:
        """At once; streams still open raise EngineStopped."""


def engine_client(
    server: ServerConfig, config: EngineConfig, metrics: Metrics, callbacks: EngineCallbacks
) -> ProcessClient:
    """A client, yet to be started, that tells `metrics` what its engine does. callbacks: beside those that count."""
    return ProcessClient(
        config,
        max_num_waiting=server.max_num_waiting,
        max_num_waiting_tokens=server.max_num_waiting_tokens,
        max_num_batch_requests=server.max_num_batch_requests,
        hang_timeout_s=server.engine_hang_timeout,
        callbacks=dataclasses.replace(
            callbacks,
            on_discarded=metrics.on_discarded,
            on_first_token=metrics.on_first_token,
            on_process=metrics.on_process,
            on_ready=partial(metrics.on_ready, has_prefix_cache=config.enable_prefix_caching),
        ),
    )


class OneEngine:
    """That of the server's one model: its start is shown on the terminal and timed, and its end is the server's."""

    def __init__(self, name: str, server: ServerConfig, engine: EngineConfig, metrics: Metrics, began_s: float) -> None:
        self.context: ServerContext | None = None
        self.what = engine.model
        self._metrics = metrics
        self._display = loading_display(server.log_format)
        self._times = StartupTimes(began_s, metrics.on_startup_phase)
        self._is_first = True  # the engine has not been started again
        callbacks = EngineCallbacks(
            on_step=self._on_step,
            on_loading=self._on_loading,
            on_tokenizer=self._on_tokenizer,
            on_restart=self._on_restart,
        )
        self._client = engine_client(server, engine, metrics, callbacks)
        self.clients: Mapping[str, EngineClient] = {name: self._client}

    async def begin(self) -> None:
        await self._client.start()

    async def finish(self) -> "TextModel":
        try:
            await self._client.wait_ready()
            self._times.begin(LAST_PHASE, time.monotonic())
            text_model = await self._model.text_model()
            await self._context.models.adapters.read_all(self._model)
            self._times.end(time.monotonic())
            return text_model
        finally:
            self._display.close()

    async def wait_dead(self) -> str:
        return await self._client.wait_dead()

    async def stop(self) -> None:
        await self._client.stop()

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

    def _on_step(self, stats: StepStats) -> None:
        self._metrics.on_step(stats)
        self._model.live.on_step(stats)

    def _on_tokenizer(self, info: TokenizerInfo) -> None:
        self._model.start_text_model(info)

    def _on_restart(self, reason: RestartReason) -> None:
        self._is_first = False
        if self.context is not None:
            note_restart(self.context, self._model, reason)


def note_restart(context: "ServerContext", model: "ServedModel", reason: RestartReason) -> None:
    model.metrics.on_restart(reason)
    model.live.requests.engine_ended(reason)
    if context.tracing is not None:
        context.tracing.note_restart(reason)
