"""ServedModel: a model that requests can name, with its engine client, tokenizer, chat template and metrics."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial

import msgspec

from engine.client.interface import EngineClient, EngineState, RequestStream
from engine.config import EngineConfig
from engine.errors import EngineUnavailable, ModelUnusable, OptionError, StartupError, TextUnusable
from engine.protocol import EngineInfo, SubmittedRequest, TokenizerInfo
from server.calibration.files import Calibrations
from server.config.server import ServerConfig
from server.drain import Drain
from server.errors import ModelFailed
from server.keys.caller import current_caller
from server.live.feed import LiveFeed
from server.metrics.request_record import RequestRecord
from server.metrics.values import Metrics
from server.prefixes.named import NamedPrefixes
from server.served.adapter import ServedAdapter
from server.served.arrivals import Arrivals
from server.served.loadable_model import LoadableModel, ModelState
from server.served.model_loader import ModelLoader
from server.text.chat_templates.runner import TemplateRunner
from server.text.workers import TextWorkers
from server.text_model import TextModel, build_text_model

_STATES = {
    EngineState.LOADING: ModelState.LOADING,
    EngineState.READY: ModelState.LOADED,
    EngineState.DEAD: ModelState.FAILED,
    EngineState.UNLOADED: ModelState.UNLOADED,
}


UNUSABLE_TEXT = "the model's tokenizer or chat template cannot be used; the server's log says why"
_TEXT_NOT_NOW = "the model's tokenizer and chat template could not be prepared; try again later"


@dataclass(slots=True)
class _Shared:
    """State that a model shares with its adapter views."""

    num_preparing: int = 0
    text_model: asyncio.Task[TextModel] | None = None
    last_info: EngineInfo | None = None
    expected_capabilities: list[str] = field(default_factory=list)  # before the model has been loaded
    expected_layers: list[str] = field(default_factory=list)  # kinds of layers that can be trained
    prefixes: NamedPrefixes = field(default_factory=NamedPrefixes)


@dataclass(slots=True)
class ServedModel:
    """A served model. A request looks it up once, and keeps it. With `adapter`, this is a view of the base model that
    has the adapter's name and submits requests with the adapter."""

    names: tuple[str, ...]  # names in requests; the first is canonical
    root: str  # MODEL as typed
    engine: EngineConfig
    client: EngineClient
    config: ServerConfig
    metrics: Metrics
    honors_priority: bool  # whether the scheduler uses a request's priority
    # Shared by all models of the server:
    drain: Drain
    live: LiveFeed
    workers: TextWorkers
    templates: TemplateRunner
    arrivals: Arrivals = field(default_factory=Arrivals)
    calibrations: Calibrations = field(default_factory=Calibrations)  # of the base model and its adapters
    loader: ModelLoader | None = None  # None: the model is loaded at the start, and stays loaded
    has_adapters: bool = False  # whether adapters can be served (--enable-lora)
    adapter: ServedAdapter | None = None
    _adapter_version: Callable[[], ServedAdapter] | None = None  # returns the adapter's current version
    _used_adapter: ServedAdapter | None = None  # version that the view's first request to the engine used
    _shared: _Shared = field(default_factory=_Shared)

    @property
    def name(self) -> str:
        return self.names[0]

    @property
    def base_name(self) -> str:
        """Name of the base model."""
        return self.name if self.adapter is None else self.adapter.base_name

    def with_adapter(self, adapter: ServedAdapter, current: Callable[[], ServedAdapter]) -> "ServedModel":
        """Return a view of this model with the adapter, for one request. current: returns the adapter's current
        version, or raises ModelNotFound if the adapter is no longer served."""
        return replace(
            self,
            names=(adapter.name,),
            root=adapter.path,
            adapter=adapter,
            _adapter_version=current,
        )

    def submit(self, request: SubmittedRequest, *, num_new_tokens: int | None = None) -> RequestStream:
        """Submit a request to the engine, with the adapter if this is an adapter's view. All submissions of a view use
        the adapter version of the first one. num_new_tokens: prompt tokens, without those that another choice of the
        same API request computes; default: all. Raises ModelNotFound if the adapter is not served at the first."""
        if self._adapter_version is not None:
            adapter = self._used_adapter or self._adapter_version()
            request = msgspec.structs.replace(request, adapter=adapter.ref)
            self._used_adapter = adapter
        return self.client.submit(request, num_new_tokens=num_new_tokens)

    @property
    def used_adapter(self) -> ServedAdapter | None:
        """Version of the adapter that requests are submitted with. Before the first one, it may still be replaced."""
        return self._used_adapter or self.adapter

    @property
    def prefixes(self) -> NamedPrefixes:
        """The named prefixes of the base model and its adapters."""
        return self._shared.prefixes

    @property
    def num_preparing(self) -> int:
        """Number of requests that are being rendered and tokenized, and are not yet in the engine."""
        return self._shared.num_preparing

    @property
    def visible_names(self) -> tuple[str, ...]:
        """Names that the current request's caller may use."""
        caller = current_caller()
        return tuple(name for name in self.names if caller.may_use(name))

    @property
    def info(self) -> EngineInfo | None:
        """Engine's description of the model, kept after the model is unloaded; None until it has been loaded once."""
        with contextlib.suppress(EngineUnavailable):  # much is chosen while the model loads
            self._shared.last_info = self.client.info
        return self._shared.last_info

    @property
    def system_fingerprint(self) -> str | None:
        """How answers of the model are computed: mode/version/weights/kernels/KV dtype; None if not known."""
        info = self.info
        return None if info is None else info.system_fingerprint

    @property
    def loadable(self) -> LoadableModel | None:
        """Load state of the model; None if the model is loaded at the start and stays loaded."""
        return None if self.loader is None else self.loader.model(self.base_name)

    @property
    def state(self) -> ModelState:
        return _STATES[self.client.status().state] if self.loadable is None else self.loadable.state

    @property
    def capabilities(self) -> list[str]:
        """Names of the features that requests can use, as far as known. Features of the chat template are known once it
        is read; with several models, all other features are known before the model is loaded. A failed model has
        none."""
        if self.loadable is not None and self.state is ModelState.FAILED:
            return []
        if self.info is not None and self.info.pooling is not None:
            return self.info.pooling.capabilities
        task = self._shared.text_model
        if task is None or not task.done() or _has_failed(task):
            return self._shared.expected_capabilities
        return task.result().capabilities

    @property
    def trainable_layers(self) -> list[str]:
        """Kinds of layers that fine-tuning can train adapters for, as far as known."""
        return self._shared.expected_layers if self.info is None else self.info.trainable_layers

    def set_expected(self, capabilities: list[str], trainable_layers: list[str]) -> None:
        """Set the capabilities and trainable layers that the model's files promise, until the model is loaded."""
        self._shared.expected_capabilities, self._shared.expected_layers = capabilities, trainable_layers

    def check_admission(self) -> None:
        """Raise EngineUnavailable if the server drains or no engine is ready or restarting."""
        self.drain.check()
        self.check_engine()

    def check_engine(self) -> None:
        """Raise EngineUnavailable if no engine is ready or restarting, without regard to a drain."""
        status = self.client.status()
        if status.state is not EngineState.READY and not status.is_restarting:
            raise EngineUnavailable(status.reason)

    @property
    def num_unfinished(self) -> int:
        """Number of requests in the engine or being prepared for it."""
        return self.client.status().num_open + self.num_preparing

    @property
    def has_work(self) -> bool:
        """Whether the model is loading, or a request runs or waits for it. Lines of batches that wait until clients
        stop using another model do not count: nothing is computed for them."""
        if self.num_unfinished or self.state is ModelState.LOADING:
            return True
        return self.loadable is not None and self.loadable.num_waiting_clients > 0

    def check_queue(self) -> None:
        """Raise QueueFull or EngineUnavailable if the engine's queue cannot take another request."""
        self.client.check_capacity(self.num_preparing + 1)

    @property
    def is_loaded(self) -> bool:
        """Whether requests can run without loading the model first."""
        return self.loader is None or self.state is ModelState.LOADED

    def check_queue_if_loaded(self) -> None:
        """Raise the errors of check_queue, unless the model must be loaded first."""
        if self.is_loaded:
            self.check_queue()

    async def acquire(self, record: RequestRecord | None) -> None:
        """Load the model if needed, and keep it until the record's request ends. Raises QueueFull, ModelNotLoaded and
        EngineUnavailable."""
        if self.loader is None or record is None:
            return
        self.drain.check()
        await self.loader.acquire(self.base_name)
        record.on_end(partial(self.loader.release, self.base_name))

    @contextlib.contextmanager
    def preparing(self) -> Iterator[None]:
        """Return a context that counts a request in `num_preparing`."""
        self.arrivals.notify()
        self._shared.num_preparing += 1
        try:
            yield
        finally:
            self._shared.num_preparing -= 1

    @contextlib.asynccontextmanager
    async def in_use(self, *, is_batch: bool = False) -> AsyncIterator[None]:
        """Return a context in which the model is loaded. is_batch: no client waits for the work. Raises QueueFull,
        ModelNotLoaded and EngineUnavailable."""
        if self.loader is None:
            yield
            return
        await self.loader.acquire(self.base_name, is_batch=is_batch)
        try:
            yield
        finally:
            self.loader.release(self.base_name, is_batch=is_batch)

    async def text_model(self) -> TextModel:
        """Return the tokenizer and chat template for a request. The first call builds them on a worker thread.

        Raises EngineUnavailable before the model's first load, or if the next request may succeed in building them, and
        ModelFailed if the tokenizer or template cannot be used.
        """
        try:
            return await self.prepare_text()
        except TextUnusable as error:
            raise ModelFailed.because(str(error)) from None
        except (ModelUnusable, OptionError):
            raise ModelFailed.because(UNUSABLE_TEXT) from None
        except StartupError:
            raise EngineUnavailable(_TEXT_NOT_NOW) from None

    async def prepare_text(self) -> TextModel:
        """Return the tokenizer and chat template, as `text_model` does, but raise StartupError with the
        reason if one of them cannot be used."""
        info = self.info or self.client.info  # which raises EngineUnavailable with the reason
        task = self.start_text_model(info.tokenizer)
        return await asyncio.shield(task)  # other callers may wait for the same task

    @property
    def text_problem(self) -> str | None:
        """The reason why texts cannot be read yet, or UNUSABLE_TEXT if they never can; None once they can be, or before
        the engine has sent its tokenizer."""
        task = self._shared.text_model
        if task is None or (task.done() and not _has_failed(task)):
            return None
        if task.done():
            error = None if task.cancelled() else task.exception()
            may_pass = isinstance(error, StartupError) and not isinstance(error, ModelUnusable | OptionError)
            return _TEXT_NOT_NOW if may_pass else UNUSABLE_TEXT
        return "the model's tokenizer and chat template are being tried"

    def start_text_model(self, info: TokenizerInfo) -> "asyncio.Task[TextModel]":
        """Return the task that builds the text model, after starting it if needed. Weights may still be loading."""
        if self._shared.text_model is None or _has_failed(self._shared.text_model):
            self._shared.text_model = asyncio.create_task(
                asyncio.to_thread(build_text_model, info, self.config, self.workers, self.templates), name="text-model"
            )
        return self._shared.text_model


def _has_failed(task: "asyncio.Task[TextModel]") -> bool:
    return task.done() and (task.cancelled() or task.exception() is not None)
