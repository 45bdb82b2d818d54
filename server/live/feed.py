"""LiveFeed: sends frames of an engine's state to watchers four times a second."""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Callable

import msgspec

from engine.client.interface import EngineClient
from engine.errors import EngineUnavailable
from engine.protocol import StepStats
from server.errors import TooManyWatchers
from server.live.frames import Blocks, EngineFrame, FrameBuilder
from server.live.gpus import GpuFigures, Gpus
from server.live.history import History
from server.live.pace import Pace
from server.live.request_table import Latencies, RequestTable
from server.live.requests import LiveRequest

MAX_WATCHERS = 16
_INTERVAL_S = 0.25
_MAX_UNREAD = 8  # frames queued for a slow watcher; older ones are dropped


class EngineHealth(msgspec.Struct, frozen=True):
    state: str
    reason: str  # why the engine is not ready
    num_restarts: int


class ModelSummary(msgspec.Struct, frozen=True):
    """State of one of the server's models."""

    name: str
    state: str  # unloaded, loading, loaded, unloading or failed
    num_open: int


class Frame(msgspec.Struct, frozen=True):
    """One message of the dashboard's stream."""

    at_ms: int  # Unix time
    interval_s: float  # seconds since the previous frame
    engine: EngineHealth
    models: list[ModelSummary]  # all models of the server; empty if it has only one
    work: EngineFrame
    is_pooling: bool  # whether the model makes vectors or scores, and writes nothing
    num_open: int
    open: list[LiveRequest]
    recent: list[LiveRequest] | None  # newest first; None if unchanged since the previous frame
    latencies: Latencies
    gpu: GpuFigures | None = None  # that the engine computes on; None without one, or without figures


class LiveFeed:
    """Sends frames of one engine to watchers. Without watchers no task runs, and a step costs next to nothing."""

    def __init__(
        self,
        client: EngineClient,
        overview: Callable[[], list[ModelSummary]] = list,
        history: History | None = None,
        gpus: Gpus | None = None,
    ) -> None:
        """overview: returns a summary of each model; nothing if the server has one model. history: gets all
        steps. gpus: figures of the server's GPUs."""
        self.requests = RequestTable(client)
        self.pace = Pace()
        self._history = history
        self._gpus = gpus or Gpus()
        self._overview = overview
        self._client = client
        self._watchers: set[asyncio.Queue[bytes]] = set()
        self._last = StepStats()
        self._builder = FrameBuilder(self._last)
        self._task: asyncio.Task[None] | None = None

    @property
    def last_step(self) -> StepStats:
        """Statistics of the engine's last step, or of its beginning."""
        return self._last

    @property
    def num_watchers(self) -> int:
        return len(self._watchers)

    def on_step(self, stats: StepStats) -> None:
        self._last = stats
        if stats.is_beginning:
            return
        self.requests.on_step(stats)
        self.pace.on_step(stats)
        if self._history is not None:
            self._history.on_step(stats)
        if self._watchers:
            self._builder.add(stats)

    async def watch(self, num_frames: int | None = None) -> AsyncGenerator[bytes]:
        """Yield `num_frames` frames as JSON, or until `close`. Raises TooManyWatchers, and errors in making frames."""
        if len(self._watchers) >= MAX_WATCHERS:
            raise TooManyWatchers(f"{MAX_WATCHERS} clients are watching already; close a dashboard, or try again later")
        queue: asyncio.Queue[bytes] = asyncio.Queue(_MAX_UNREAD)
        self._watchers.add(queue)
        task = self._task or self._start()
        try:
            yield self._frame(0.0, self.requests.recent())
            num_sent = 1
            while num_sent != num_frames and (frame := await queue.get()):
                yield frame
                num_sent += 1
            if task.done() and not task.cancelled():
                task.result()
        finally:
            self._watchers.discard(queue)
            if not self._watchers and self._task is not None:
                self._task.cancel()
                self._task = None

    def close(self) -> None:
        """End all watchers' streams."""
        for queue in self._watchers:
            _put(queue, b"")

    def _start(self) -> asyncio.Task[None]:
        self._builder = FrameBuilder(self._last)
        self._task = asyncio.create_task(self._send_frames(), name="live-feed")
        self._task.add_done_callback(self._on_sender_done)
        return self._task

    def _on_sender_done(self, task: asyncio.Task[None]) -> None:
        """End all streams if making a frame failed, since they would wait forever. The next watcher starts anew."""
        if not task.cancelled() and task.exception() is not None and self._task is task:
            self._task = None
            self.close()

    async def _send_frames(self) -> None:
        last_s = time.monotonic()
        last_recent = self.requests.recent()
        while True:
            await asyncio.sleep(_INTERVAL_S)
            now_s = time.monotonic()
            recent = self.requests.recent()
            frame = self._frame(now_s - last_s, None if recent == last_recent else recent)
            last_s, last_recent = now_s, recent
            for queue in self._watchers:
                _put(queue, frame)

    def _frame(self, interval_s: float, recent: list[LiveRequest] | None) -> bytes:
        now_ms = time.time() * 1000
        status = self._client.status()
        frame = Frame(
            at_ms=round(now_ms),
            interval_s=interval_s,
            engine=EngineHealth(status.state.value, status.reason, status.num_restarts),
            models=self._overview(),
            work=self._work(self._builder if interval_s else FrameBuilder(self._last)),
            is_pooling=self._is_pooling,
            num_open=self.requests.num_open,
            open=self.requests.open(),
            recent=recent,
            latencies=self.requests.latencies(now_ms),
            gpu=self._gpus.of(self._gpu_uuid),
        )
        return msgspec.json.encode(frame)

    @property
    def _is_pooling(self) -> bool:
        try:
            return self._client.info.pooling is not None
        except EngineUnavailable:  # not loaded yet
            return False

    @property
    def _gpu_uuid(self) -> str | None:
        try:
            return self._client.info.gpu_uuid
        except EngineUnavailable:  # not loaded yet
            return None

    def _work(self, builder: FrameBuilder) -> EngineFrame:
        work = builder.take()
        if work.blocks.total == 0:  # before the first step, which reports the number of blocks
            with contextlib.suppress(EngineUnavailable):
                info = self._client.info
                if info.pooling is not None:  # its steps end with nothing that runs
                    running = self.requests.num_open - self.requests.num_open_lines
                    return msgspec.structs.replace(work, running=running)
                return msgspec.structs.replace(work, blocks=Blocks(total=info.num_blocks))
        return work


def _put(queue: asyncio.Queue[bytes], frame: bytes) -> None:
    if queue.full():
        queue.get_nowait()
    queue.put_nowait(frame)
