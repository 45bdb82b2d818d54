"""EngineStart: the engine from the first message of its process to a model that takes text."""

import time
from functools import partial
from typing import TYPE_CHECKING

from engine.client.callbacks import EngineCallbacks
from engine.client.interface import RestartReason
from engine.client.log_format import LogFormat
from engine.client.process_client import ProcessClient
from engine.config import EngineConfig
from engine.protocol import Loading, StepStats, TokenizerInfo
from server.commands.loading_display import loading_display
from server.commands.startup_times import LAST_PHASE, StartupTimes
from server.config import ServerConfig
from server.metrics.values import Metrics

if TYPE_CHECKING:  # slow to import; the engine process starts meanwhile
    from server.context import ServerContext
    from server.text_model import TextModel


def engine_client(
    server_config: ServerConfig, engine_config: EngineConfig, metrics: Metrics, start: "EngineStart"
) -> ProcessClient:
    """A client, yet to be started, that tells `start` and `metrics` what its engine does."""
    return ProcessClient(
        engine_config,
        max_num_waiting=server_config.max_num_waiting,
        max_num_waiting_tokens=server_config.max_num_waiting_tokens,
        hang_timeout_s=server_config.engine_hang_timeout,
        callbacks=EngineCallbacks(
            on_step=start.on_step,
            on_loading=start.on_loading,
            on_tokenizer=start.on_tokenizer,
            on_discarded=metrics.on_discarded,
            on_first_token=metrics.on_first_token,
            on_restart=start.on_restart,
            on_process=metrics.on_process,
            on_ready=partial(metrics.on_ready, has_prefix_cache=engine_config.enable_prefix_caching),
        ),
    )


class EngineStart:
    """Shown on the terminal, timed, and at its end a model that takes text."""

    def __init__(self, metrics: Metrics, began_s: float, log_format: LogFormat) -> None:
        self.display = loading_display(log_format)
        self.context: ServerContext | None = None  # set before the engine's first message is read
        self._metrics = metrics
        self._times = StartupTimes(began_s, metrics.on_startup_phase)
        self._is_first = True  # the engine has not been started again

    def on_loading(self, loading: Loading) -> None:
        self.display.show(loading)
        if self._is_first:
            self._times.show(loading)

    def on_step(self, stats: StepStats) -> None:
        self._metrics.on_step(stats)
        assert self.context is not None
        self.context.live.on_step(stats)

    def on_tokenizer(self, info: TokenizerInfo) -> None:
        assert self.context is not None
        self.context.models.default.begin_text_model(info)

    def on_restart(self, reason: RestartReason) -> None:
        self._is_first = False
        self._metrics.on_restart(reason)
        assert self.context is not None
        self.context.live.requests.engine_ended(reason)
        if self.context.tracing is not None:
            self.context.tracing.note_restart(reason)

    async def finish(self, client: ProcessClient) -> "TextModel":
        """Wait for the engine, then for tokenizer and chat template. Raises StartupError."""
        assert self.context is not None
        await client.wait_ready()
        self._times.begin(LAST_PHASE, time.monotonic())
        text_model = await self.context.models.default.text_model()
        self._times.end(time.monotonic())
        return text_model
