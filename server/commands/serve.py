"""`headrace serve`: the life of the server process, from the bound socket to the drained exit."""

import asyncio
import contextlib
import gc
import logging
import os
import signal
import socket
import time
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from engine.client.callbacks import EngineCallbacks
from engine.client.interface import RestartReason
from engine.client.log_format import FORM_VARIABLE, LogFormat, configure_logging
from engine.client.process_client import ProcessClient
from engine.config import EngineConfig
from engine.errors import StartupError
from engine.protocol import Loading, StepStats, TokenizerInfo
from server.commands.activity_log import ActivityLog
from server.commands.announcement import announce
from server.commands.draining import drain_server
from server.commands.fault_injection import fault_plan
from server.commands.hangup import on_hangup
from server.commands.listener import listening, url_of
from server.commands.loading_display import loading_display
from server.commands.open_files import allow_open_files
from server.commands.service_manager import ServiceManager
from server.commands.startup_times import LAST_PHASE, StartupTimes
from server.config import MetricsAlias, ServerConfig
from server.http.certificates import Certificates
from server.keys.key_file import read_keys
from server.metrics.loop_lag import watch_loop
from server.metrics.values import Metrics
from server.store.entries import Entries
from server.store.opening import open_store
from server.text.chat_template import load_chat_template
from server.text.memory import return_large_buffers
from server.text.template_processes import TemplateProcesses
from server.tracing.start import start_tracing

if TYPE_CHECKING:
    from server.context import ServerContext
    from server.text_model import TextModel

logger = logging.getLogger(__name__)
_Result = TypeVar("_Result")

_TRACES_TIMEOUT_S = 3.0  # for those that have not been sent
_STORE_TIMEOUT_S = 3.0  # for background responses that were ended to be stored


def run(server_config: ServerConfig, engine_config: EngineConfig) -> int:
    """Serve until a signal or the engine's end; returns the exit code. Raises StartupError."""
    began_s = time.monotonic()
    return_large_buffers()
    _configure_logging(server_config)
    if server_config.api_keys_file is not None:
        read_keys(Path(server_config.api_keys_file))  # a wrong one is told now, not after loading
    allow_open_files(server_config.max_connections)
    faults = fault_plan(server_config, os.environ)
    certificates = Certificates(server_config.network) if server_config.network.has_tls else None
    with contextlib.closing(TemplateProcesses()) as templates:
        load_chat_template(server_config.chat_template, None, {}, frozenset(), templates)  # the same
        with listening(server_config) as sock, open_store(server_config, faults) as store:
            return asyncio.run(_serve(sock, store, templates, server_config, engine_config, certificates, began_s))


def _configure_logging(config: ServerConfig) -> None:
    configure_logging(config.log_level, config.log_format)
    os.environ[FORM_VARIABLE] = config.log_format  # the engine process inherits it


async def _serve(
    sock: socket.socket,
    store: Entries,
    templates: TemplateProcesses,
    server_config: ServerConfig,
    engine_config: EngineConfig,
    certificates: Certificates | None,
    began_s: float,
) -> int:
    """Serve on `sock`, which answers 503 until the engine is ready, and take everything down again.

    began_s: time.monotonic() when the program began.
    """
    stop_signal = _catch_signals()
    manager = ServiceManager.from_environment(os.environ)
    stop_signal.add_done_callback(lambda _: manager.stopping())
    has_vllm_names = server_config.metrics_alias is MetricsAlias.VLLM
    metrics = Metrics(server_config.model_names(engine_config.model)[0], has_vllm_names=has_vllm_names)
    tracing = start_tracing(server_config.otlp_traces_endpoint, metrics.count_spans)
    start = _Start(metrics, began_s, server_config.log_format)
    client = _engine_client(server_config, engine_config, metrics, start)
    await client.start()
    await asyncio.sleep(0)  # until the engine process is there: it imports its libraries while we import the web's
    templates.begin()
    from server.commands.http_server import create_server
    from server.state.records import fail_interrupted

    http, context = create_server(client, server_config, engine_config, metrics, store, templates, certificates)
    context.tracing = tracing
    start.context = context
    if server_config.data_dir is not None:
        await store.expire()
        if num_interrupted := await fail_interrupted(store):
            logger.warning("%d background responses were cut off by the end of the last server", num_interrupted)
    upkeep = contextlib.AsyncExitStack()
    await upkeep.enter_async_context(context.keys.kept_up())
    on_hangup(
        *([context.keys.look_again] if context.keys.has_files else []),
        *([certificates.reload] if certificates is not None else []),
    )
    serving = asyncio.create_task(http.serve([sock]), name="http")
    watches = [
        asyncio.create_task(ActivityLog(metrics).run(), name="activity-log"),
        asyncio.create_task(watch_loop(partial(metrics.observe, "event_loop_lag_seconds")), name="loop-lag"),
        asyncio.create_task(manager.pulse(), name="watchdog-pulse"),
    ]
    if certificates is not None and server_config.network.enable_ssl_refresh:
        watches.append(asyncio.create_task(certificates.watch(), name="certificates"))
    url = url_of(sock, has_tls=certificates is not None)
    manager.loading(engine_config.model)
    logger.info("listening on %s, loading %s", url, engine_config.model)
    try:
        try:
            text_model = await _unless(stop_signal, start.finish(client))
        finally:
            start.display.close()
        if text_model is not None:
            tokenizer = text_model.tokenizer
            preparing = asyncio.ensure_future(
                context.workers.run(tokenizer.prepare_for_long_texts, size=tokenizer.vocab_size)
            )
            gc.freeze()  # what is here stays: to look through it for garbage would hold up streams
            announce(client.info, text_model, url, server_config)
            manager.ready(url)
            await _run_until_stopped(
                stop_signal, client, partial(drain_server, context, http.num_answers, server_config.shutdown_timeout)
            )
            preparing.cancel()
        return 0
    finally:
        context.drain.stop(time.monotonic())
        await client.stop()  # what still runs ends with an error event
        await context.runs.finish(_STORE_TIMEOUT_S)
        context.live.close()
        http.should_exit = True
        await serving
        await upkeep.aclose()  # all requests are over
        context.workers.close()
        for watch in watches:
            watch.cancel()
        if tracing is not None:
            await asyncio.to_thread(tracing.close, _TRACES_TIMEOUT_S)
        manager.close()


def _engine_client(
    server_config: ServerConfig, engine_config: EngineConfig, metrics: Metrics, start: "_Start"
) -> ProcessClient:
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


class _Start:
    """The server's start: shown on the terminal, timed, and at its end a model that takes text."""

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


async def _run_until_stopped(
    stop_signal: "asyncio.Future[signal.Signals]", client: ProcessClient, drain: Callable[[], Awaitable[None]]
) -> None:
    """Serve until a signal, and for SIGTERM until what runs is finished. Raises StartupError if the engine is dead."""
    if (reason := await _unless(stop_signal, client.wait_dead())) is not None:
        raise StartupError(reason)
    if stop_signal.result() is signal.SIGTERM:
        await drain()
    elif num_open := client.status().num_open:
        logger.info("stopping: ending %d requests", num_open)


def _catch_signals() -> "asyncio.Future[signal.Signals]":
    """A future that holds the first SIGINT or SIGTERM; the second ends the process at once.

    The engine process needs no signal: it ends when the socket pair does.
    """
    loop = asyncio.get_running_loop()
    first: asyncio.Future[signal.Signals] = loop.create_future()

    def receive(number: signal.Signals) -> None:
        if first.done():
            os._exit(128 + number)
        first.set_result(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, receive, number)
    return first


async def _unless(stop: "asyncio.Future[Any]", waited: Coroutine[Any, Any, _Result]) -> _Result | None:
    """The result of `waited`, or None if `stop` comes first."""
    task = asyncio.ensure_future(waited)
    await asyncio.wait({task, stop}, return_when=asyncio.FIRST_COMPLETED)
    if task.done():
        return task.result()
    task.cancel()
    return None
