"""SeveralEngines: starts and stops the engines of several models, or of one that is loaded on demand."""

import asyncio
import dataclasses
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec

from engine.child_processes.environment import compute_environment
from engine.client.fork_server import ForkServer
from engine.client.interface import EngineClient, EngineEnd
from engine.client.process_client import ProcessClient
from engine.command_io.weighing import Weighed, Weighing, WeighMessage
from engine.config import EngineConfig
from engine.errors import HeadraceError, OptionError, StartupError
from engine.protocol import Loading
from server.commands.lifespan.engines import Engines, OneEngine, engine_client, note_restart, prepare_adapters
from server.commands.options.definitions import OPTIONS
from server.commands.serve.loading_display import loading_display
from server.config.models import ModelEntry
from server.config.server import ServerConfig
from server.metrics.values import Metrics
from server.served.engine_slot import EngineSlot
from server.served.loadable_model import LoadableModel
from server.served.memory_plan import HOST, MemoryGrant, memory_need, plan_memory
from server.served.model_loader import ManagedEngine, ModelLoader

if TYPE_CHECKING:
    from server.context import ServerContext
    from server.served.adapters import ServedAdapters
    from server.served.model import ServedModel
    from server.text_model import TextModel

logger = logging.getLogger(__name__)

_WEIGH_COMMAND = (sys.executable, "-P", "-m", "engine.commands.weigh")


def engines_of(
    server: ServerConfig,
    engine: EngineConfig,
    metrics: Metrics,
    began_s: float,
    fork_server: ForkServer | None = None,
) -> Engines:
    """Create the Engines for the options. metrics: the first model's. began_s: start of the process, from
    time.monotonic()."""
    name = metrics.model_name
    if not server.models.entries and not server.models.loads_on_demand:
        return OneEngine(name, server, engine, metrics, began_s, fork_server)
    return SeveralEngines(server.model_entries(engine), server, fork_server)


class SeveralEngines:
    """The engines of several models, or of one loaded on demand. An engine's death does not end the server."""

    def __init__(
        self, entries: tuple[ModelEntry, ...], server: ServerConfig, fork_server: ForkServer | None = None
    ) -> None:
        self.context: ServerContext | None = None
        self.label = ", ".join(entry.name for entry in entries)
        self._entries = entries
        self._server = server
        self._fork_server = fork_server
        self._slots = {entry.name: EngineSlot() for entry in entries}
        self.clients: Mapping[str, EngineClient] = self._slots
        self._display = loading_display(server.log_format)
        self._loader: ModelLoader | None = None

    async def start(self) -> None:
        """Do nothing, since memory must be divided among the models before any engine starts."""

    async def wait_loaded(self) -> "TextModel":
        assert self.context is not None
        try:
            grants, limits = await self._plan()
            self._loader = self._make_loader(grants, limits)
            await self._load_first(self._loader)
        finally:
            self._display.close()
        self.context.models.have_started = True
        return await self.context.models.first_loaded.text_model()

    async def wait_dead(self) -> str:
        await asyncio.Event().wait()  # a model that has failed is loaded again by the next request
        raise AssertionError

    async def stop(self) -> None:
        if self._loader is not None:
            await self._loader.close()
        if self._fork_server is not None:
            self._fork_server.close()  # a thread may still wait for its imports

    async def _plan(self) -> tuple[Mapping[str, MemoryGrant], Mapping[str, float]]:
        """Return a memory grant for each model, and the limit for all on each device, in bytes. Raises StartupError or
        OptionError."""
        config, entries = self._server.models, self._entries
        if len(entries) == 1:
            return {}, {HOST: float("inf")}
        weighed = await _weigh([entry.engine for entry in entries], self._display.show)
        for entry, each in zip(entries, weighed, strict=True):
            if each.failure is not None:
                error = OptionError if each.is_option else StartupError
                raise error(f"{entry.name}: {each.failure}")
        self._entries = tuple(
            entry if each.has_kv_cache else _with_its_length(_without_generation(entry), each.longest)
            for entry, each in zip(entries, weighed, strict=True)
        )
        self._add_adapters()
        for entry, each in zip(self._entries, weighed, strict=True):
            self._model(entry.name).set_expected(each.capabilities, each.trainable_layers)
        claims = [memory_need(entry, each) for entry, each in zip(self._entries, weighed, strict=True)]
        plan = plan_memory(claims, config.models_memory, loads_on_demand=config.loads_on_demand)
        for grant in plan.grants:
            need, kv = grant.need_bytes >> 20, grant.kv_bytes >> 20
            use = "its KV cache" if grant.has_kv_cache else "batches of texts"
            where = "" if grant.device == HOST else f" on {grant.device}"
            logger.info("memory for %s%s: %d MiB, with %d MiB for %s", grant.name, where, need, kv, use)
        for device, limit_bytes in plan.limits.items():
            option = "--models-memory" if device == HOST else f"--gpu-memory-utilization, on {device}"
            logger.info("the limit for all models together: %d MiB (%s)", limit_bytes >> 20, option)
        return {grant.name: grant for grant in plan.grants}, plan.limits

    def _model(self, name: str) -> "ServedModel":
        assert self.context is not None
        return self.context.models.get_or_default(name)

    def _add_adapters(self) -> None:
        """Set which models support adapters, and register the configured adapters. Raises OptionError."""
        assert self.context is not None
        models = self.context.models
        can_have = {entry.name: entry.engine.enable_lora for entry in self._entries}
        for model in models:
            model.has_adapters = can_have[model.name]
        models.add_configured_adapters(self._server.lora)

    def _make_loader(self, grants: Mapping[str, MemoryGrant], limits: Mapping[str, float]) -> ModelLoader:
        """Create the loader and give it to the served models."""
        assert self.context is not None
        idle_s = self._server.models.idle_unload
        models = {model.name: model for model in self.context.models}
        engines = {}
        for entry in self._entries:
            model, grant = models[entry.name], grants.get(entry.name)
            loadable = LoadableModel(
                entry.name,
                0 if grant is None else grant.need_bytes,
                model.config.max_num_waiting,
                is_pinned=entry.is_pinned,
                device=HOST if grant is None else grant.device,
                idle_s=idle_s if entry.idle_unload is None else entry.idle_unload,
            )
            kv_bytes = grant.kv_bytes if grant is not None and grant.has_kv_cache else None
            make_engine = partial(self._make_engine, entry, model, kv_bytes)
            engines[entry.name] = ManagedEngine(
                loadable, self._slots[entry.name], make_engine, partial(_prepare, self.context.models.adapters, model)
            )
        loader = ModelLoader(engines, limits, load_timeout_s=self._server.models.load_timeout)
        for model in models.values():
            model.loader = loader
        return loader

    def _make_engine(self, entry: ModelEntry, model: "ServedModel", kv_bytes: int | None) -> ProcessClient:
        config = dataclasses.replace(entry.engine, kv_cache_memory_bytes=kv_bytes) if kv_bytes else entry.engine

        def on_loading(loading: Loading) -> None:
            self._display.show(Loading(f"{entry.name}: {loading.stage}", loading.done, loading.total, loading.unit))

        def on_restart(end: EngineEnd) -> None:
            assert self.context is not None
            note_restart(self.context, model, end)

        return engine_client(
            model.config, config, model.metrics, lambda: model, on_loading, on_restart, self._fork_server
        )

    async def _load_first(self, loader: ModelLoader) -> None:
        """Load the models that are loaded at startup, one after another. Raises StartupError if all fail."""
        is_all = not self._server.models.loads_on_demand
        first = [entry.name for entry in self._entries if is_all or entry.is_pinned]
        first = first or [self._entries[0].name]
        failures = []
        for name in first:
            try:
                await loader.ensure_loaded(name)
            except HeadraceError as error:  # a loaded model may already be unloaded, for another model's request
                failures.append(f"{name}: {loader.model(name).reason or error}")
        if len(failures) == len(first):
            raise StartupError("; ".join(failures))


async def _prepare(adapters: "ServedAdapters", model: "ServedModel") -> None:
    """Prepare the tokenizer, chat template and adapters of a model whose engine is ready."""
    await model.prepare_text()
    await prepare_adapters(adapters, model)


def _without_generation(entry: ModelEntry) -> ModelEntry:
    """Return a pooling model's entry with shared options that only affect generation reset to their defaults."""
    shared = [name for name in entry.engine.generating_options() if name not in entry.own_options]
    if shared:
        flags = ", ".join(OPTIONS[name].flag for name in shared)
        logger.info("%s is a pooling model (embeddings or scores): %s does not apply to it", entry.name, flags)
    defaults = EngineConfig()
    changes: dict[str, Any] = {name: getattr(defaults, name) for name in shared}
    return dataclasses.replace(entry, engine=dataclasses.replace(entry.engine, **changes))


def _with_its_length(entry: ModelEntry, longest: int) -> ModelEntry:
    """Return a pooling model's entry with a shared --max-model-len lowered to what the model takes. longest: this
    limit, in tokens. Raises OptionError if the entry itself asks for more."""
    limit = entry.engine.max_model_len
    if limit is None or limit <= longest:
        return entry
    if "max_model_len" in entry.own_options:
        raise OptionError(
            f"{entry.name}: max_model_len is {limit:,}; this model takes texts of up to {longest:,} tokens; lower it, "
            "or leave it out"
        )
    logger.info("%s takes texts of up to %d tokens, fewer than --max-model-len %d", entry.name, longest, limit)
    return dataclasses.replace(entry, engine=dataclasses.replace(entry.engine, max_model_len=longest))


async def _weigh(configs: Sequence[EngineConfig], show: Callable[[Loading], None]) -> list[Weighed]:
    """Measure the memory needs of the models in a child process that may import torch. Raises StartupError."""
    process = await asyncio.create_subprocess_exec(
        *_WEIGH_COMMAND,
        msgspec.json.encode(configs).decode(),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        env=compute_environment(),
    )
    assert process.stdout is not None
    weighed: list[Weighed] = []
    try:
        async for line in process.stdout:
            match msgspec.json.decode(line, type=WeighMessage):
                case Weighing(stage=stage, done=done, total=total, unit=unit):
                    show(Loading(stage, done, total, unit))
                case Weighed() as each:
                    weighed.append(each)
        code = await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if code != 0 or len(weighed) != len(configs):
        raise StartupError(f"the memory that the models need could not be measured: exit status {code}, see above")
    return weighed
