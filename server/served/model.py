"""ServedModel: one model as requests meet it: its names, its engine, its way with text, and what is counted of it."""

import asyncio
import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

from engine.client.interface import EngineClient, EngineState
from engine.errors import EngineUnavailable
from engine.protocol import EngineInfo, TokenizerInfo
from server.config import ServerConfig
from server.drain import Drain
from server.keys.caller import current_caller
from server.live.feed import LiveFeed
from server.metrics.values import Metrics
from server.text.template_runner import TemplateRunner
from server.text.workers import TextWorkers
from server.text_model import TextModel, build_text_model


@dataclass(slots=True)
class ServedModel:
    """A request has one from the moment that its `model` is read, and asks nothing of any other."""

    names: tuple[str, ...]  # that clients call it by; the first is canonical
    root: str  # MODEL as typed
    client: EngineClient
    config: ServerConfig
    metrics: Metrics
    honors_priority: bool  # whether the scheduler looks at a request's priority
    # Shared by all models of the server:
    drain: Drain
    live: LiveFeed
    workers: TextWorkers
    templates: TemplateRunner
    num_preparing: int = 0  # requests that are rendered and tokenized, and will wait for the engine then
    _text_model: asyncio.Task[TextModel] | None = None

    @property
    def name(self) -> str:
        return self.names[0]

    @property
    def callers_names(self) -> tuple[str, ...]:
        """Those that the request's caller may ask for."""
        caller = current_caller()
        return tuple(name for name in self.names if caller.may_use(name))

    @property
    def info(self) -> EngineInfo | None:
        """What is known of the model once it is loaded."""
        try:
            return self.client.info
        except EngineUnavailable:  # much is chosen while the model loads
            return None

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
