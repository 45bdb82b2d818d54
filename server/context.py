"""What every route shares: the engine's client, the options, the metrics, and the tokenizer once there is one."""

import asyncio
import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from engine.client.interface import EngineClient, EngineState
from engine.errors import EngineUnavailable
from engine.protocol import TokenizerInfo
from server.config import ServerConfig
from server.drain import Drain
from server.errors import ModelNotFound
from server.keys.caller import current_caller
from server.keys.room import KeyRoom
from server.live.feed import LiveFeed
from server.metrics.values import Metrics
from server.runs.registry import Runs
from server.schemas.base import quote
from server.store.entries import Entries
from server.text.template_runner import TemplateRunner
from server.text.workers import TextWorkers
from server.text_model import TextModel, build_text_model

if TYPE_CHECKING:
    from server.tracing.tracing import Tracing


@dataclass(slots=True)
class ServerContext:
    """One server's state; create_app makes one, and there is no other."""

    client: EngineClient
    config: ServerConfig
    metrics: Metrics
    model_names: tuple[str, ...]  # the first is canonical
    model_root: str  # MODEL as typed
    honors_priority: bool  # whether the scheduler looks at a request's priority
    runs: Runs
    store: Entries
    keys: KeyRoom
    templates: TemplateRunner
    live: LiveFeed
    tracing: "Tracing | None" = None
    workers: TextWorkers = field(default_factory=TextWorkers)
    drain: Drain = field(default_factory=Drain)
    created_s: int = field(default_factory=lambda: int(time.time()))
    num_preparing: int = 0  # requests that are rendered and tokenized, and will wait for the engine then
    _text_model: asyncio.Task[TextModel] | None = None

    @property
    def model_name(self) -> str:
        return self.model_names[0]

    def check_admission(self) -> None:
        """Raise EngineUnavailable if no request can be taken now."""
        if self.drain.is_active:
            raise EngineUnavailable(f"{self.drain.reason}; send the request to another one")
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

    def check_queue(self) -> None:
        """Raise QueueFull, or EngineUnavailable, if one more request, of whatever length, is too much."""
        self.client.check_capacity(self.num_preparing + 1)

    @contextlib.contextmanager
    def preparing(self) -> Iterator[None]:
        """Within it a request counts in `num_preparing`."""
        self.num_preparing += 1
        try:
            yield
        finally:
            self.num_preparing -= 1

    @property
    def callers_models(self) -> tuple[str, ...]:
        """The names that the request's caller may ask for."""
        caller = current_caller()
        return tuple(name for name in self.model_names if caller.may_use(name))

    def check_model(self, name: str | None) -> None:
        """Raise ModelNotFound unless `name` is served here, and to this caller; a request without a name means the
        canonical one."""
        if (self.model_name if name is None else name) in (names := self.callers_models):
            return
        served = ", ".join(repr(known) for known in names) or "none for this key"
        if name is None:
            raise ModelNotFound(f"the request names no model, and its key must; this server has {served}")
        raise ModelNotFound(f"the model {quote(name)} is not served here; this server has {served}")

    async def text_model(self) -> TextModel:
        """The tokenizer and chat template, built off the event loop at the first call.

        Raises EngineUnavailable before READY, and StartupError if the model's cannot be used.
        """
        task = self.begin_text_model(self.client.info.tokenizer)
        return await asyncio.shield(task)  # a caller that goes away leaves it to the others

    def begin_text_model(self, info: TokenizerInfo) -> "asyncio.Task[TextModel]":
        """Start on what `text_model` returns, unless that was begun; so much can be done while weights are loaded."""
        if self._text_model is None:
            self._text_model = asyncio.create_task(
                asyncio.to_thread(build_text_model, info, self.config, self.workers, self.templates), name="text-model"
            )
        return self._text_model
