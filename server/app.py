"""create_app: the HTTP application around one or several engine clients."""

import dataclasses
import importlib
import os
import pkgutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from difflib import get_close_matches
from http import HTTPStatus
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.routing import Match

import server.routes
from engine.client.interface import EngineClient
from engine.config import EngineConfig, SchedulingPolicy
from engine.errors import HeadraceError
from server.batches.kind import BatchJobs
from server.calibration.files import Calibrations
from server.config.models import ModelEntry
from server.config.server import ServerConfig
from server.context import ServerContext
from server.drain import Drain
from server.endpoints.binding.registry import WAITING_PATHS
from server.endpoints.binding.routes import endpoint_router
from server.errors import TTFT_HEADER
from server.files.disk import disk_of
from server.files.store import Files
from server.finetuning.jobs.kind import FinetuningJobs
from server.http.error_forms import error_response, reply_to
from server.http.middleware.auth import AuthMiddleware
from server.http.middleware.load_headers import LOAD_HEADER, STARTED_HEADER
from server.http.middleware.one_of_several import OneOfSeveral
from server.http.middleware.queue_check import QueueMiddleware
from server.http.middleware.requests import RequestMiddleware
from server.jobs.kind import JobKind
from server.keys.manager import KeyManager
from server.live.feed import LiveFeed
from server.live.gpus import Gpus
from server.live.history import History
from server.live.machine import MachineSampler
from server.metrics.values import Metrics
from server.openapi.responses import RATE_HEADERS
from server.paths import route_path
from server.protocols.system_one_errors import REQUEST_ID_HEADER
from server.pulling.pulls import Pulls
from server.routes.docs import description_of
from server.runs.keyed_answers import KeyedAnswers
from server.runs.registry import Runs
from server.schemas.base import quote
from server.served.model import ServedModel
from server.served.models import ServedModels
from server.store.database import memory_database
from server.store.entries import Entries
from server.store.opening import entries_in
from server.text.chat_templates.direct_templates import DirectTemplates
from server.text.chat_templates.runner import TemplateRunner
from server.text.workers import TextWorkers


def _routers() -> Iterator[APIRouter]:
    """Yield the routers of the endpoints, then of every module in server/routes, by module name."""
    yield endpoint_router()
    for module in sorted(pkgutil.iter_modules(server.routes.__path__), key=lambda each: each.name):
        yield importlib.import_module(f"{server.routes.__name__}.{module.name}").router


ROUTERS = tuple(_routers())

# The kinds of background jobs.
JOB_KINDS: tuple[type[JobKind[Any]], ...] = (BatchJobs, FinetuningJobs)

_ROUTES = tuple(route for router in ROUTERS for route in router.routes if isinstance(route, APIRoute))

# Paths without parameters: few enough to be a label of metrics.
_KNOWN_PATHS = frozenset(route.path for route in _ROUTES if "{" not in route.path)


# An asynchronous context manager around the time in which the application serves.
Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[None]]


def create_app(
    client: EngineClient | Mapping[str, EngineClient],
    config: ServerConfig,
    engine_config: EngineConfig,
    metrics: Metrics,
    store: Entries | None = None,
    *,
    templates: TemplateRunner | None = None,
    lifespan: Lifespan | None = None,
) -> FastAPI:
    """Return the application, whose state is one ServerContext at `app.state.context`.

    client: the engine client, or a mapping from model names to clients. metrics: the first model's metrics. store: None
    keeps stored objects in memory. templates: runs the chat templates, in processes of their own; None runs them in
    this process, which is only for trusted templates. lifespan: starts and ends what the application needs.

    The caller or `lifespan` starts and stops `client`, and the caller closes `store`. Raises OptionError for a keys
    file or usage log that cannot be used.
    """
    store = store or entries_in(memory_database(), config)
    drain, workers = Drain(), TextWorkers()
    entries = config.model_entries(engine_config)
    clients = client if isinstance(client, Mapping) else {entries[0].name: client}
    history, gpus = History(), Gpus()
    templates = templates or DirectTemplates()
    models = _served_models(entries, clients, config, metrics, drain, workers, templates, history, gpus)
    models.add_configured_adapters(config.lora, kinds_known=len(entries) == 1)
    context = ServerContext(
        models=models,
        config=config,
        metrics=metrics,
        runs=Runs(config.stream_log_bytes, config.stream_resume_grace, metrics),
        answers=KeyedAnswers(metrics),
        store=store,
        files=Files(store.database, disk_of(config.data_dir), config.storage),
        keys=KeyManager(config, metrics, store.database, models.aliases),
        workers=workers,
        drain=drain,
        history=history,
        gpus=gpus,
        machine=MachineSampler(_folders(config)),
        pulls=Pulls(config.models.pull_allow, metrics),
    )
    app = FastAPI(
        title="headrace",
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
        middleware=_middleware(context),
        exception_handlers={HeadraceError: _answer_error, HTTPException: _answer_error},
    )
    for kind in JOB_KINDS:
        kind.table.attach(context.files)
    app.state.context = context
    routes = [route for router in ROUTERS for route in router.routes]
    app.state.description = description_of(routes, config.root_path)
    app.router.routes.extend(routes)  # app.include_router would make each anew for this application
    return app


def _folders(config: ServerConfig) -> dict[str, str]:
    """Return the folders that the server writes to, by name."""
    folders = {"cache": os.environ.get("HEADRACE_CACHE") or "~/.cache/headrace"}
    return folders if config.data_dir is None else {"--data-dir": config.data_dir, **folders}


def _served_models(
    entries: Sequence[ModelEntry],
    clients: Mapping[str, EngineClient],
    config: ServerConfig,
    metrics: Metrics,
    drain: Drain,
    workers: TextWorkers,
    templates: TemplateRunner,
    history: History,
    gpus: Gpus,
) -> ServedModels:
    models: ServedModels = ServedModels(
        [
            ServedModel(
                names=entry.names,
                root=entry.engine.model,
                engine=entry.engine,
                client=clients[entry.name],
                config=(own := dataclasses.replace(config, **entry.overrides)),
                calibrations=Calibrations(own.calibration),
                metrics=metrics if entry.name == metrics.model_name else metrics.for_model(entry.name),
                has_adapters=entry.engine.enable_lora,
                honors_priority=entry.engine.scheduling_policy is SchedulingPolicy.PRIORITY,
                drain=drain,
                live=LiveFeed(clients[entry.name], lambda: models.overview if len(models) > 1 else [], history, gpus),
                workers=workers,
                templates=templates,
            )
            for entry in entries
        ],
        {entry.alias: entry.name for entry in entries if entry.alias is not None},
    )
    return models


def _middleware(context: ServerContext) -> list[Middleware]:
    """Return the middleware, outermost first: CORS, since preflights have no key and errors need CORS headers."""
    config = context.config
    layers = [
        Middleware(RequestMiddleware, context=context, loaded_paths=WAITING_PATHS),
        Middleware(AuthMiddleware, ring=context.keys.ring, known_paths=_KNOWN_PATHS),
        *([Middleware(OneOfSeveral)] if config.is_one_of_several else []),
        Middleware(QueueMiddleware, context=context, paths=WAITING_PATHS),
    ]
    if config.allowed_origins:
        cors = Middleware(
            CORSMiddleware,
            allow_origins=list(config.allowed_origins),
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["*"],
            expose_headers=[
                "x-request-id",
                "request-id",
                "openai-processing-ms",
                "x-ignored-parameters",
                "x-decision-calibration",
                "x-decision-wording",
                REQUEST_ID_HEADER,
                "x-tool-call-format",
                "x-stream-id",
                "idempotent-replayed",
                LOAD_HEADER,
                STARTED_HEADER,
                "retry-after",
                "x-should-retry",
                "traceresponse",
                *RATE_HEADERS,
                TTFT_HEADER,
            ],
        )
        layers.insert(0, cors)
    return layers


async def _answer_error(request: Request, error: Exception) -> Response:
    if isinstance(error, HTTPException):
        headers = {**(error.headers or {})}
        if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
            headers = {"Allow": ", ".join(_methods_of(request))}
        error = HTTPException(error.status_code, _explain(request, error), headers)
    request_id = request.state.request_id
    return error_response(reply_to(error, request_id, route_path(request.scope)), request_id, request.scope)


def _explain(request: Request, error: HTTPException) -> str:
    """Return the message for a path or method that the router does not know, with the nearest one that it does."""
    path, method = route_path(request.scope), request.method
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        allowed = ", ".join(_methods_of(request))
        return f"{quote(path)} does not support this method, {method[:20]}; it takes {allowed}; /docs lists all paths"
    if error.status_code == HTTPStatus.NOT_FOUND:
        near = get_close_matches(path, _KNOWN_PATHS, n=1, cutoff=0.8)
        hint = f"did you mean {near[0]}? " if near else ""
        return f"there is nothing at this path, {quote(path)} ({method[:20]}); {hint}/docs lists all paths"
    return str(error.detail)


def _methods_of(request: Request) -> list[str]:
    """Return the methods of a request's path, sorted: the router's own error names the methods of one route."""
    matching = [route for route in _ROUTES if route.matches(request.scope)[0] is not Match.NONE]
    return sorted({method for route in matching for method in route.methods or ()})
