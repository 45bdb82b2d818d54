"""`headrace serve`: the server process, from binding the socket to exiting after the drain."""

import asyncio
import contextlib
import gc
import logging
import os
import socket
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from engine.child_processes.allocator import return_large_buffers
from engine.child_processes.fault_plan import VARIABLE, FaultPlan
from engine.child_processes.log_format import configure_logging
from engine.config import EngineConfig
from engine.errors import OptionError, StartupError
from server.calibration.files import Calibrations
from server.commands.lifespan.activity_log import ActivityLog
from server.commands.lifespan.engines import Engines
from server.commands.lifespan.several_engines import engines_of
from server.commands.options.in_force import settings_in_force
from server.commands.serve.announcement import announce, announce_loading
from server.commands.serve.listener import listening, url_of
from server.commands.serve.open_files import allow_open_files
from server.commands.serve.service_manager import ServiceManager
from server.commands.serve.shared_terminal import can_draw
from server.commands.serve.signals import catch_signals, on_hangup, unless
from server.commands.serve.stopping import drain_server, run_until_stopped
from server.config.server import MetricsAlias, ServerConfig
from server.http.connections.certificates import Certificates
from server.keys.key_file import read_keys
from server.live.gpus import watch_gpus
from server.live.history_file import HistoryFile
from server.live.machine_watch import watch_machine
from server.metrics.loop_lag import watch_loop
from server.metrics.values import Metrics
from server.store.entries import Entries
from server.store.opening import open_store
from server.text.chat_templates.chat_template import load_chat_template
from server.text.chat_templates.processes import TemplateProcesses
from server.tracing.start import start_tracing

if TYPE_CHECKING:
    from server.commands.serve.http_server import HttpServer
    from server.context import ServerContext
    from server.jobs.runner import JobRunner
    from server.text_model import TextModel

logger = logging.getLogger(__name__)

_MODEL_FILES = (".gguf", ".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".pkl")
_TRACES_TIMEOUT_S = 3.0  # for sending the rest of the traces
_GARBAGE = 20_000  # objects made since the last look for garbage; one engine step makes a thousand, all short-lived
_STORE_TIMEOUT_S = 3.0  # for storing background responses that were ended


def serve(server_config: ServerConfig, engine_config: EngineConfig) -> int:
    """Serve until a signal or the engine's death; return the exit code. Raises StartupError."""
    began_s = time.monotonic()
    check_paths(server_config, engine_config)
    return_large_buffers()
    configure_logging(server_config.log_level, server_config.log_format)
    if server_config.api_keys_file is not None:
        read_keys(Path(server_config.api_keys_file))  # to report an error now, not after loading
    server_config = replace(server_config, max_connections=allow_open_files(server_config.max_connections))
    faults = fault_plan(server_config, os.environ)
    certificates = Certificates(server_config.network) if server_config.network.has_tls else None
    with contextlib.closing(TemplateProcesses()) as templates:
        load_chat_template(server_config.chat_template, None, {}, frozenset(), templates)  # likewise
        with listening(server_config) as sock, open_store(server_config, faults) as store:
            return asyncio.run(_serve(sock, store, templates, server_config, engine_config, certificates, began_s))


async def _serve(
    sock: socket.socket,
    store: Entries,
    templates: TemplateProcesses,
    server_config: ServerConfig,
    engine_config: EngineConfig,
    certificates: Certificates | None,
    began_s: float,
) -> int:
    """Serve on `sock` (503 until the engine is ready), then shut down. began_s: start of the process, from
    time.monotonic()."""
    stop = catch_signals()
    manager = ServiceManager.from_environment(os.environ)
    stop.add_done_callback(lambda _: manager.stopping())
    has_vllm_names = server_config.metrics_alias is MetricsAlias.VLLM
    metrics = Metrics(server_config.model_entries(engine_config)[0].name, has_vllm_names=has_vllm_names)
    tracing = start_tracing(server_config.otlp_traces_endpoint, metrics.count_spans)
    is_drawn = can_draw(server_config.log_format)
    engines = engines_of(server_config, engine_config, metrics, began_s)
    await engines.start()
    await asyncio.sleep(0)  # starts the engine process, which imports its libraries while this one imports uvicorn
    templates.begin()
    from server.commands.serve.http_server import create_server

    http, context = create_server(
        engines.clients, server_config, engine_config, metrics, store, templates, certificates
    )
    context.tracing = tracing
    context.settings = settings_in_force(server_config, engine_config)
    logging.getLogger().addHandler(context.log)
    engines.context = context
    history_file = _history_file(context)
    runner = await _job_runner(context)
    url = url_of(sock, has_tls=certificates is not None)
    async with (
        _background_work(context, runner, manager, certificates, history_file),
        _answering(http, sock, context, engines),
    ):
        manager.loading(engines.label)
        announce_loading(url, engines.label, server_config, is_drawn=is_drawn)
        text_model = await unless(stop, engines.wait_loaded())
        if text_model is not None:
            drain = partial(
                drain_server, context, http.num_answers, http.num_connections, server_config.shutdown_timeout
            )
            with _preparing(context, text_model):
                announce(
                    context.models.infos,
                    text_model,
                    url,
                    server_config,
                    is_drawn=is_drawn,
                    adapters=_adapter_names(context),
                )
                manager.ready(url)
                await run_until_stopped(stop, engines, context, drain)
    return 0


def _adapter_names(context: "ServerContext") -> list[str] | None:
    """Return the names of the served adapters; None if no model supports adapters."""
    if not any(model.has_adapters for model in context.models):
        return None
    return [adapter.name for adapter in context.models.adapters]


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
    context: "ServerContext",
    runner: "JobRunner",
    manager: ServiceManager,
    certificates: Certificates | None,
    history_file: HistoryFile | None,
) -> AsyncIterator[None]:
    """Run background tasks within the context: activity log, jobs, reloads of keys and certificates, sd_notify."""
    names_model = len(context.models) > 1
    work = [
        *(("activity-log", ActivityLog(each, names_model=names_model).run()) for each in context.models.metrics),
        ("loop-lag", watch_loop(partial(context.metrics.observe, "event_loop_lag_seconds"))),
        ("machine", watch_machine(context.machine, context.history)),
        ("gpus", watch_gpus(context.gpus, context.models.gpu_uuids, context.metrics)),
        ("watchdog-pulse", manager.pulse()),
        ("jobs", runner.run()),
    ]
    if history_file is not None:
        work.append(("history", history_file.keep()))
    await runner.prepare()
    if certificates is not None and context.config.network.enable_ssl_refresh:
        work.append(("certificates", certificates.watch()))
    watches = [asyncio.create_task(each, name=name) for name, each in work]
    try:
        async with context.keys.running():
            on_hangup(
                *([context.keys.reload] if context.keys.has_files else []),
                *([certificates.reload] if certificates is not None else []),
            )
            yield
    finally:
        context.workers.close()
        for watch in watches:
            watch.cancel()
        await asyncio.gather(*watches, return_exceptions=True)  # batches store what they have
        if context.tracing is not None:
            await asyncio.to_thread(context.tracing.close, _TRACES_TIMEOUT_S)
        manager.close()


@contextlib.asynccontextmanager
async def _answering(
    http: "HttpServer", sock: socket.socket, context: "ServerContext", engines: Engines
) -> AsyncIterator[None]:
    """Serve HTTP within the context; at its end, stop the engines and end open requests."""
    serving = asyncio.create_task(http.serve([sock]), name="http")
    try:
        yield
    finally:
        context.drain.stop(time.monotonic())
        await engines.stop()  # running requests end with an error event
        await context.pulls.close()
        await context.runs.finish(_STORE_TIMEOUT_S)
        context.models.close_live_feeds()
        http.should_exit = True
        await serving


@contextlib.contextmanager
def _preparing(context: "ServerContext", text_model: "TextModel") -> Iterator[None]:
    """Warm up the tokenizer for long texts in the background, and freeze the garbage collector's existing objects."""
    tokenizer = text_model.tokenizer
    preparing = asyncio.ensure_future(context.workers.run(tokenizer.prepare_for_long_texts, size=tokenizer.vocab_size))
    gc.freeze()  # existing objects stay; scanning them for garbage would delay streams
    gc.set_threshold(_GARBAGE, *gc.get_threshold()[1:])
    try:
        yield
    finally:
        preparing.cancel()


def check_paths(server: ServerConfig, engine: EngineConfig) -> None:
    """Raise StartupError for the first model or adapter path that does not exist, before the slow start of a process
    that imports torch. The messages equal those in models/sources/resolve.py. Raise OptionError for a calibration that
    cannot be used."""
    entries = server.models.entries
    for config, prefix in [(entry.engine, f"{entry.name}: ") for entry in entries] or [(engine, "")]:
        if (path := _missing(config.model)) is not None:
            raise StartupError(f"{prefix}{path}")
        if config.draft_model is not None and (path := _missing(config.draft_model)) is not None:
            raise StartupError(f"{prefix}the draft model {config.draft_model} cannot be used: {path}")
    if not entries and engine.enable_lora:
        for module in server.lora.modules:
            if not Path(module.path).exists():
                raise StartupError(f"--lora-modules {module.name}: {module.path!r} does not exist; check the spelling")
    for entry in server.model_entries(engine):
        Calibrations(entry.overrides.get("calibration", server.calibration))


def _missing(model: str) -> str | None:
    """Return an error message if the model must be a local path and does not exist; None otherwise."""
    is_path = model.startswith(("/", "./", "../", "~")) or (model.lower().endswith(_MODEL_FILES) and ":" not in model)
    path = Path(model).expanduser()
    if not is_path or path.exists():
        return None
    return f"model path {str(path)!r} does not exist; check the spelling"


def fault_plan(config: ServerConfig, environ: Mapping[str, str]) -> FaultPlan | None:
    """Parse HEADRACE_FAULTS; None if not set. Raises OptionError if it is invalid or fault injection is off."""
    text = environ.get(VARIABLE)
    if not text:
        return None
    if not config.enable_fault_injection:
        raise OptionError(
            f"{VARIABLE} is set, which makes the server fail on purpose; unset it, or give --enable-fault-injection if "
            "this server is for tests"
        )
    plan = FaultPlan(text)
    logger.warning("this server fails on purpose (%s=%s): it is for tests", VARIABLE, text)
    return plan
