"""ServedModel: one model as requests meet it: its names, its engine, its way with text, and what is counted of it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial

from engine.client.interface import EngineClient, EngineState
from engine.config import EngineConfig
from engine.errors import EngineUnavailable
from engine.protocol import EngineInfo, TokenizerInfo
from server.config import ServerConfig
from server.drain import Drain
from server.keys.caller import current_caller
from server.live.feed import LiveFeed
from server.metrics.request_record import RequestRecord
from server.metrics.values import Metrics
from server.served.adapter import AdaptedClient, ServedAdapter
from server.served.arrivals import Activity
from server.served.loadable_model import ModelState
from server.served.model_loader import Residence
from server.text.template_runner import TemplateRunner
from server.text.workers import TextWorkers
from server.text_model import TextModel, build_text_model

_STATES = {
    EngineState.LOADING: ModelState.LOADING,
    EngineState.READY: ModelState.LOADED,
    EngineState.DEAD: ModelState.FAILED,
    EngineState.UNLOADED: ModelState.UNLOADED,
}


@dataclass(slots=True)
class _Shared:
    """What a model and its adapters have in common, and changes."""

    num_preparing: int = 0
    text_model: asyncio.Task[TextModel] | None = None
    last_info: EngineInfo | None = None
    foreseen: list[str] = field(default_factory=list)  # capabilities, before it has been loaded
    foreseen_layers: list[str] = field(default_factory=list)  # that adapters can be trained for


@dataclass(slots=True)
class ServedModel:
    """A request has one from the moment that its `model` is read, and asks nothing of any other. Of a request for an
    adapter it is the adapter's model with the adapter's name, and an engine that runs with it."""

    names: tuple[str, ...]  # that clients call it by; the first is canonical
    root: str  # MODEL as typed
    engine: EngineConfig  # the options that it is loaded with
    client: EngineClient
    config: ServerConfig
    metrics: Metrics
    honors_priority: bool  # whether the scheduler looks at a request's priority
    # Shared by all models of the server:
    drain: Drain
    live: LiveFeed
    workers: TextWorkers
    templates: TemplateRunner
    activity: Activity = field(default_factory=Activity)
    residence: Residence | None = None  # None: it is loaded at the start, and stays so
    has_adapters: bool = False  # whether it can have any (--enable-lora)
    adapter: ServedAdapter | None = None
    _shared: _Shared = field(default_factory=_Shared)

    @property
    def name(self) -> str:
        return self.names[0]

    @property
    def base_name(self) -> str:
        """Of the model that is loaded for it."""
        return self.name if self.adapter is None else self.adapter.base_name

    def adapted(self, adapter: ServedAdapter, current: Callable[[], ServedAdapter]) -> "ServedModel":
        """What a request for one of its adapters has. current: as AdaptedClient takes it."""
        return replace(
            self,
            names=(adapter.name,),
            root=adapter.path,
            client=AdaptedClient(self.client, current),
            adapter=adapter,
        )

    @property
    def num_preparing(self) -> int:
        """Requests that are rendered and tokenized, and will wait for the engine then."""
        return self._shared.num_preparing

    @num_preparing.setter
    def num_preparing(self, number: int) -> None:
        self._shared.num_preparing = number

    @property
    def callers_names(self) -> tuple[str, ...]:
        """Those that the request's caller may ask for."""
        caller = current_caller()
        return tuple(name for name in self.names if caller.may_use(name))

    @property
    def info(self) -> EngineInfo | None:
        """What is known of the model once it has been loaded."""
        with contextlib.suppress(EngineUnavailable):  # much is chosen while the model loads
            self._shared.last_info = self.client.info
        return self._shared.last_info

    @property
    def state(self) -> ModelState:
        if self.residence is not None:
            return self.residence.resident(self.base_name).state
        return _STATES[self.client.status().state]

    @property
    def capabilities(self) -> list[str]:
        """What requests may ask of the model, as far as that is known: what depends on its chat template is when that
        is there, and the rest before it is loaded, where several models are served."""
        if self.info is not None and self.info.pooling is not None:
            return self.info.pooling.capabilities
        task = self._shared.text_model
        if task is None or not task.done() or _has_failed(task):
            return self._shared.foreseen
        return task.result().capabilities

    @property
    def trainable_layers(self) -> list[str]:
        """Kinds of layers that adapters can be trained for, as far as they are known: before the model is loaded, where
        several are served."""
        return self._shared.foreseen_layers if self.info is None else self.info.trainable_layers

    def foresee(self, capabilities: list[str], trainable_layers: list[str]) -> None:
        """Note what the model's files say that it can do."""
        self._shared.foreseen, self._shared.foreseen_layers = capabilities, trainable_layers

    def check_admission(self) -> None:
        """Raise EngineUnavailable if no request can be taken now."""
        self.drain.check()
        self.check_engine()

    def check_engine(self) -> None:
        """Raise EngineUnavailable if there is no engine for a request that was taken before."""
        status = self.client.status()
        if status.state is not EngineState.READY:
            raise EngineUnavailable(status.reason)

    @property
    def num_unfinished(self) -> int:
        """Requests that the engine has, or will get."""
        return self.client.status().num_open + self.num_preparing

    @property
    def has_work(self) -> bool:
        """Whether a request runs or waits; a model that is loaded, too, is one that requests wait for. Lines of batches
        that wait until clients no longer use another model are no work: nothing is computed for them meanwhile."""
        if self.num_unfinished or self.state is ModelState.LOADING:
            return True
        return self.residence is not None and self.residence.resident(self.base_name).num_waiting_clients > 0

    def check_queue(self) -> None:
        """Raise QueueFull, or EngineUnavailable, if one more request, of whatever length, is too much."""
        self.client.check_capacity(self.num_preparing + 1)

    @property
    def is_loaded(self) -> bool:
        """Whether no request has to wait until the model is loaded on demand."""
        return self.residence is None or self.state is ModelState.LOADED

    def check_new(self) -> None:
        """Raise as check_queue, unless the request would have the model loaded."""
        if self.is_loaded:
            self.check_queue()

    async def enter(self, record: RequestRecord | None) -> None:
        """Have the model loaded, until the request is over that the record is of.

        Raises QueueFull, ModelNotLoaded and EngineUnavailable.
        """
        if self.residence is None or record is None:
            return
        self.drain.check()
        await self.residence.enter(self.base_name)
        record.at_end(partial(self.residence.leave, self.base_name))

    @contextlib.contextmanager
    def preparing(self) -> Iterator[None]:
        """Within it a request counts in `num_preparing`."""
        self.activity.note()
        self.num_preparing += 1
        try:
            yield
        finally:
            self.num_preparing -= 1

    @contextlib.asynccontextmanager
    async def in_use(self, *, is_batch: bool = False) -> AsyncIterator[None]:
        """Within it the model is loaded, for work that is no HTTP request. is_batch: for which nobody waits. Raises as
        `enter`."""
        if self.residence is None:
            yield
            return
        await self.residence.enter(self.base_name, is_batch=is_batch)
        try:
            yield
        finally:
            self.residence.leave(self.base_name, is_batch=is_batch)

    async def text_model(self) -> TextModel:
        """The tokenizer and chat template, built off the event loop at the first call.

        Raises EngineUnavailable before READY, and StartupError if the model's cannot be used.
        """
        info = self.info or self.client.info  # which raises what it has to say
        task = self.begin_text_model(info.tokenizer)
        return await asyncio.shield(task)  # a caller that goes away leaves it to the others

    def begin_text_model(self, info: TokenizerInfo) -> "asyncio.Task[TextModel]":
        """Start on what `text_model` returns, unless that was begun; so much can be done while weights are loaded.

        What has failed is tried again.
        """
        if self._shared.text_model is None or _has_failed(self._shared.text_model):
            self._shared.text_model = asyncio.create_task(
                asyncio.to_thread(build_text_model, info, self.config, self.workers, self.templates), name="text-model"
            )
        return self._shared.text_model


def _has_failed(task: "asyncio.Task[TextModel]") -> bool:
    return task.done() and (task.cancelled() or task.exception() is not None)
