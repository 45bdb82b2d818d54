"""AdapterReader: a thread that reads adapters, one after the other, beside the engine's steps."""

import logging
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic

from engine.adapters.source import A
from models.errors import ModelError

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Load:
    """An operator asks whether it is an adapter of the model. number: that the answer has too."""

    number: int
    path: str


@dataclass(frozen=True, slots=True)
class Reread:
    """A slot waits for it. digest: that it must have."""

    slot: int
    name: str
    path: str
    digest: bytes
    began_s: float  # time.perf_counter()


@dataclass(frozen=True, slots=True)
class Done(Generic[A]):
    """Either the adapter, or why there is none."""

    job: Load | Reread
    adapter: A | None
    error: str = ""


class AdapterReader(Generic[A]):
    """`start` and `collect` are called by the engine's thread."""

    def __init__(self, read: Callable[[str], A], on_done: Callable[[], None]) -> None:
        """on_done: called by another thread when `collect` has something to return."""
        self._read = read
        self._on_done = on_done
        self._jobs: queue.SimpleQueue[Load | Reread] = queue.SimpleQueue()
        self._done: queue.SimpleQueue[Done[A]] = queue.SimpleQueue()
        self._num_open = 0
        self._thread: threading.Thread | None = None

    @property
    def has_done(self) -> bool:
        return not self._done.empty()

    @property
    def is_busy(self) -> bool:
        """Whether `collect` will have something to return, now or later."""
        return self._num_open > 0

    def start(self, job: Load | Reread) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="adapter-reader", daemon=True)
            self._thread.start()
        self._num_open += 1
        self._jobs.put(job)

    def collect(self) -> list[Done[A]]:
        done = []
        while not self._done.empty():
            done.append(self._done.get())
        self._num_open -= len(done)
        return done

    def wait(self) -> None:
        """Return when `collect` has something to return. For who has nothing else to do meanwhile."""
        assert self.is_busy
        self._done.put(self._done.get())

    def _run(self) -> None:
        while True:
            job = self._jobs.get()
            self._done.put(self._result(job))
            self._on_done()

    def _result(self, job: Load | Reread) -> Done[A]:
        began_s = time.perf_counter()
        try:
            adapter = self._read(job.path)
        except (ModelError, OSError) as error:
            return Done(job, None, str(error))
        except Exception as error:  # a thread's boundary: whatever a file does to a library ends its own load alone
            logger.exception("reading the adapter %s failed", job.path)
            return Done(job, None, f"{job.path} cannot be read: {type(error).__name__}")
        logger.info(
            "read the adapter %s: rank %d, %d KiB, %.2f s",
            job.path,
            adapter.rank,
            adapter.num_bytes >> 10,
            time.perf_counter() - began_s,
        )
        return Done(job, adapter)
