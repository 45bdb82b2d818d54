"""Pull: one fetch of a model, which any number of clients watch."""

import asyncio
import contextlib
import secrets
import shlex
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field

from engine.command_io.program import as_typed
from engine.command_io.pulling import Pulled, PullMachine, PullProgress
from server.schemas.pulls import PullMemory, PullState, PullView

_OPEN: frozenset[PullState] = frozenset({"waiting", "running"})


@dataclass(slots=True)
class Pull:
    """A fetch of a model. is_kept: it continues without a client that watches, until an operator stops it."""

    model: str
    is_kept: bool = False
    id: str = field(default_factory=lambda: f"pull-{secrets.token_hex(8)}")
    created_s: float = field(default_factory=time.time)
    began_s: float = field(default_factory=time.monotonic)
    state: PullState = "waiting"
    progress: PullProgress = PullProgress("", 0, 0, "")
    free_bytes: int | None = None
    error: str | None = None
    result: Pulled | None = None
    num_watchers: int = 0
    is_stopping: bool = False
    task: "asyncio.Task[None] | None" = None
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def is_open(self) -> bool:
        return self.state in _OPEN

    def wait(self) -> None:
        self.progress = PullProgress("wait for other pulls", 0, 0, "")
        self._notify()

    def begin(self) -> None:
        self.state = "running"
        self._notify()

    def on_message(self, message: PullMachine | PullProgress | Pulled) -> None:
        match message:
            case PullMachine():
                self.free_bytes = message.free_bytes
            case PullProgress():
                self.progress = message
            case Pulled():
                self.result = message
        self._notify()

    def end(self, state: PullState, error: str | None = None) -> None:
        self.state, self.error = state, error
        self._notify()

    def stop(self) -> None:
        """Stop the fetch. No effect if it has ended or is being stopped."""
        if self.is_open and not self.is_stopping and self.task is not None:
            self.is_stopping = True
            self.task.cancel()

    @contextlib.asynccontextmanager
    async def watching(self) -> "AsyncGenerator[AsyncGenerator[PullView]]":
        """Provide the pull's state, now and after each change, until it has ended. Unless the pull is kept, it stops
        when the last watcher leaves."""
        self.num_watchers += 1
        try:
            async with contextlib.aclosing(self._views()) as views:
                yield views
        finally:
            self.num_watchers -= 1
            if self.num_watchers == 0 and not self.is_kept:
                self.stop()

    async def _views(self) -> AsyncGenerator[PullView]:
        while True:
            changed = self._changed  # changes while a watcher is slow are one change
            yield self.view()
            if not self.is_open:
                return
            await changed.wait()

    def view(self) -> PullView:
        progress, result = self.progress, self.result
        return PullView(
            id=self.id,
            model=self.model,
            state=self.state,
            stage=progress.stage,
            done=progress.done,
            total=progress.total,
            unit=progress.unit,
            created_at=int(self.created_s),
            free_bytes=self.free_bytes,
            error=self.error,
            path=None if result is None else result.path,
            size_bytes=None if result is None else result.size_bytes,
            memory=None if result is None else PullMemory(result.memory.severity.value, result.memory.message),
            serve=None if result is None else as_typed(f"headrace serve {shlex.quote(self.model)}"),
        )

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
