"""AdapterReader: reads adapters and prepares them for slots, while the engine's steps run."""

import logging
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic

from engine.adapters.source import A, AdapterSource, P
from engine.protocol import AdapterRef
from models.errors import ModelError

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LoadJob:
    """An operator's request to read and check an adapter. number: the request's id, by which the answer is matched."""

    number: int
    path: str


@dataclass(frozen=True, slots=True)
class PreparationJob(Generic[A]):
    """The preparation of an adapter for a slot. adapter: None if it must be read again; the
    digest of the files must then match `ref`."""

    slot: int
    ref: AdapterRef
    adapter: A | None
    began_s: float  # time.perf_counter()


@dataclass(frozen=True, slots=True)
class LoadResult(Generic[A]):
    """The adapter that was read, or the reason why there is none."""

    job: LoadJob
    adapter: A | None
    error: str = ""


@dataclass(frozen=True, slots=True)
class PreparationResult(Generic[A, P]):
    """The adapter and its prepared form, or the reason why there are none."""

    job: PreparationJob[A]
    adapter: A | None
    prepared: P | None
    error: str = ""


class AdapterReader(Generic[A, P]):
    """Two threads with a queue each, for operators' loads and for preparations, so that a request does not wait for an
    operator's load. `start` and `collect` are called by the engine's thread."""

    def __init__(self, source: AdapterSource[A, P], on_done: Callable[[], None]) -> None:
        """on_done: called by another thread when `collect` has a result."""
        self._source = source
        self._on_done = on_done
        self._done: queue.SimpleQueue[LoadResult[A] | PreparationResult[A, P]] = queue.SimpleQueue()
        self._jobs: dict[str, queue.SimpleQueue[LoadJob | PreparationJob[A]]] = {}  # by the thread's name
        self._num_open = 0

    @property
    def has_done(self) -> bool:
        return not self._done.empty()

    @property
    def is_busy(self) -> bool:
        """Whether a job is running, queued, or done and not collected."""
        return self._num_open > 0

    def start(self, job: LoadJob | PreparationJob[A]) -> None:
        self._num_open += 1
        self._jobs_of("adapter-loads" if isinstance(job, LoadJob) else "adapter-slots").put(job)

    def collect(self) -> list[LoadResult[A] | PreparationResult[A, P]]:
        done = []
        while not self._done.empty():
            done.append(self._done.get())
        self._num_open -= len(done)
        return done

    def wait(self) -> None:
        """Block until `collect` has a result; for an engine with nothing else to do."""
        assert self.is_busy
        self._done.put(self._done.get())

    def _jobs_of(self, thread: str) -> queue.SimpleQueue[LoadJob | PreparationJob[A]]:
        """Return the job queue of the thread with this name, after starting the thread if necessary."""
        if thread not in self._jobs:
            self._jobs[thread] = queue.SimpleQueue()
            threading.Thread(target=self._run, args=(self._jobs[thread],), name=thread, daemon=True).start()
        return self._jobs[thread]

    def _run(self, jobs: queue.SimpleQueue[LoadJob | PreparationJob[A]]) -> None:
        while True:
            job = jobs.get()
            self._done.put(self._load(job) if isinstance(job, LoadJob) else self._prepare(job))
            self._on_done()
            del job  # or its adapter would stay in memory until the next one

    def _load(self, job: LoadJob) -> LoadResult[A]:
        adapter, error = self._read(job.path)
        return LoadResult(job, adapter, error)

    def _prepare(self, job: PreparationJob[A]) -> PreparationResult[A, P]:
        ref, adapter = job.ref, job.adapter
        if adapter is None:
            adapter, error = self._read(ref.path)
            if adapter is None:
                logger.error("the adapter %s cannot be read again: %s", ref.name, error)
                return PreparationResult(job, None, None, f"the adapter {ref.name!r} cannot be read any more")
            if adapter.digest != ref.digest:
                logger.error("the adapter %s has other contents in %s than when it was loaded", ref.name, ref.path)
                return PreparationResult(job, None, None, f"the adapter {ref.name!r} has changed since it was loaded")
        try:
            return PreparationResult(job, adapter, self._source.prepare(adapter))
        except Exception:  # such as a want of memory: it ends the requests that wait for it, and no other
            logger.exception("preparing the adapter %s for slot %d failed", ref.name, job.slot)
            return PreparationResult(job, None, None, "the adapter could not be made ready; send the request again")

    def _read(self, path: str) -> tuple[A | None, str]:
        began_s = time.perf_counter()
        try:
            adapter = self._source.read(path)
        except (ModelError, OSError) as error:
            return None, str(error)
        except Exception as error:  # a thread's boundary: an error of a library ends this load alone
            logger.exception("reading the adapter %s failed", path)
            return None, f"{path} cannot be read: {type(error).__name__}"
        logger.info(
            "read the adapter %s: rank %d, %d KiB, %.2f s",
            path,
            adapter.rank,
            adapter.num_bytes >> 10,
            time.perf_counter() - began_s,
        )
        return adapter, ""
