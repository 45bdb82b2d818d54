"""`headrace serve`: the server process, from binding the socket to exiting after the drain."""

import asyncio
import contextlib
import logging
import os
import socket
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from engine.child_processes.allocator import return_large_buffers
from engine.child_processes.fault_plan import VARIABLE, FaultPlan
from engine.child_processes.log_format import configure_logging
from engine.client.fork_server import ForkServer
from engine.config import EngineConfig
from engine.errors import OptionError, StartupError
from server.calibration.files import Calibrations
from server.commands.lifespan.lifespan import ServerLife
from server.commands.serve.announcement import announce, announce_loading
from server.commands.serve.listener import listening, url_of
from server.commands.serve.open_files import allow_open_files
from server.commands.serve.service_manager import ServiceManager
from server.commands.serve.shared_terminal import can_draw
from server.commands.serve.signals import catch_signals, on_hangup, unless
from server.commands.serve.stopping import drain_server, run_until_stopped
from server.config.server import ServerConfig
from server.http.connections.certificates import Certificates
from server.keys.key_file import read_keys
from server.store.opening import open_store
from server.text.chat_templates.chat_template import load_chat_template
from server.text.chat_templates.processes import TemplateProcesses

if TYPE_CHECKING:
    from server.commands.serve.http_server import HttpServer
    from server.context import ServerContext

logger = logging.getLogger(__name__)

_MODEL_FILES = (".gguf", ".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".pkl")


def serve(server_config: ServerConfig, engine_config: EngineConfig, fork_server: ForkServer) -> int:
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
            life = partial(ServerLife, server_config, engine_config, store, templates, began_s, fork_server)
            return asyncio.run(_serve(sock, life, server_config, certificates))


async def _serve(
    sock: socket.socket,
    make_life: Callable[[], ServerLife],
    server_config: ServerConfig,
    certificates: Certificates | None,
) -> int:
    """Serve on `sock` (503 until the engine is ready), then shut down. make_life: called in the event loop."""
    stop = catch_signals()
    manager = ServiceManager.from_environment(os.environ)
    stop.add_done_callback(lambda _: manager.stopping())
    is_drawn = can_draw(server_config.log_format)
    life = make_life()
    await life.start_engines()
    app = life.create_app()
    from server.commands.serve.http_server import create_server

    http, context = create_server(app, server_config, life.metrics, certificates), life.context
    url = url_of(sock, has_tls=certificates is not None)
    async with (
        _process_work(context, manager, certificates),
        app.router.lifespan_context(app),  # not by uvicorn, which logs errors instead of raising them
        _answering(http, sock, life),
    ):
        manager.loading(life.engines.label)
        announce_loading(url, life.engines.label, server_config, is_drawn=is_drawn)
        text_model = await unless(stop, life.wait_loaded())
        if text_model is not None:
            drain = partial(
                drain_server, context, http.num_answers, http.num_connections, server_config.shutdown_timeout
            )
            announce(
                context.models.infos,
                text_model,
                url,
                server_config,
                is_drawn=is_drawn,
                adapters=_adapter_names(context),
            )
            manager.ready(url)
            await run_until_stopped(stop, life.engines, context, drain)
    return 0


def _adapter_names(context: "ServerContext") -> list[str] | None:
    """Return the names of the served adapters; None if no model supports adapters."""
    if not any(model.has_adapters for model in context.models):
        return None
    return [adapter.name for adapter in context.models.adapters]


@contextlib.asynccontextmanager
async def _process_work(
    context: "ServerContext", manager: ServiceManager, certificates: Certificates | None
) -> AsyncIterator[None]:
    """Run the work of the process within the context: reloads of keys and certificates, and sd_notify."""
    work = [("watchdog-pulse", manager.pulse())]
    if certificates is not None and context.config.network.enable_ssl_refresh:
        work.append(("certificates", certificates.watch()))
    watches = [asyncio.create_task(each, name=name) for name, each in work]
    on_hangup(
        *([context.keys.reload] if context.keys.has_files else []),
        *([certificates.reload] if certificates is not None else []),
    )
    try:
        yield
    finally:
        for watch in watches:
            watch.cancel()
        await asyncio.gather(*watches, return_exceptions=True)
        manager.close()


@contextlib.asynccontextmanager
async def _answering(http: "HttpServer", sock: socket.socket, life: ServerLife) -> AsyncIterator[None]:
    """Serve HTTP within the context; at its end, end open requests, then the connections."""
    serving = asyncio.create_task(http.serve([sock]), name="http")
    try:
        yield
    finally:
        await life.end_requests()
        http.should_exit = True
        await serving


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
