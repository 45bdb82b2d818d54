"""AdapterReader: reads adapters and prepares them for slots, beside the engine's steps."""

import logging
import queue
import threading
import time
from collections.abc import Callable
from typing import Generic

from engine.adapters.jobs import Load, Loaded, Preparation, Prepared
from engine.adapters.source import A, AdapterSource, P
from models.errors import ModelError

logger = logging.getLogger(__name__)


class AdapterReader(Generic[A, P]):
    """Operators' loads are done one after the other, and so are preparations, each on a thread of their own: a request
    does not wait for what an operator reads. `start` and `collect` are called by the engine's thread."""

    def __init__(self, source: AdapterSource[A, P], on_done: Callable[[], None]) -> None:
        """on_done: called by another thread when `collect` has something to return."""
        self._source = source
        self._on_done = on_done
        self._done: queue.SimpleQueue[Loaded[A] | Prepared[A, P]] = queue.SimpleQueue()
        self._jobs: dict[str, queue.SimpleQueue[Load | Preparation[A]]] = {}  # by the thread's name
        self._num_open = 0

    @property
    def has_done(self) -> bool:
        return not self._done.empty()

    @property
    def is_busy(self) -> bool:
        """Whether `collect` will have something to return, now or later."""
        return self._num_open > 0

    def start(self, job: Load | Preparation[A]) -> None:
        self._num_open += 1
        self._jobs_of("adapter-loads" if isinstance(job, Load) else "adapter-slots").put(job)

    def collect(self) -> list[Loaded[A] | Prepared[A, P]]:
        done = []
        while not self._done.empty():
            done.append(self._done.get())
        self._num_open -= len(done)
        return done

    def wait(self) -> None:
        """Return when `collect` has something to return. For who has nothing else to do meanwhile."""
        assert self.is_busy
        self._done.put(self._done.get())

    def _jobs_of(self, thread: str) -> queue.SimpleQueue[Load | Preparation[A]]:
        """The queue of a thread, which is started when it is first needed."""
        if thread not in self._jobs:
            self._jobs[thread] = queue.SimpleQueue()
            threading.Thread(target=self._run, args=(self._jobs[thread],), name=thread, daemon=True).start()
        return self._jobs[thread]

    def _run(self, jobs: queue.SimpleQueue[Load | Preparation[A]]) -> None:
        while True:
            job = jobs.get()
            self._done.put(self._loaded(job) if isinstance(job, Load) else self._prepared(job))
            self._on_done()
            del job  # or its adapter would stay in memory until the next one

    def _loaded(self, job: Load) -> Loaded[A]:
        adapter, error = self._read(job.path)
        return Loaded(job, adapter, error)

    def _prepared(self, job: Preparation[A]) -> Prepared[A, P]:
        ref, adapter = job.ref, job.adapter
        if adapter is None:
            adapter, error = self._read(ref.path)
            if adapter is None:
                logger.error("the adapter %s cannot be read again: %s", ref.name, error)
                return Prepared(job, None, None, f"the adapter {ref.name!r} cannot be read any more")
            if adapter.digest != ref.digest:
                logger.error("the adapter %s has other contents in %s than when it was loaded", ref.name, ref.path)
                return Prepared(job, None, None, f"the adapter {ref.name!r} has changed since it was loaded")
        try:
            return Prepared(job, adapter, self._source.prepare(adapter))
        except Exception:  # such as a want of memory: it ends the requests that wait for it, and no other
            logger.exception("preparing the adapter %s for slot %d failed", ref.name, job.slot)
            return Prepared(job, None, None, "the adapter could not be made ready; send the request again")

    def _read(self, path: str) -> tuple[A | None, str]:
        """The adapter, or why there is none."""
        began_s = time.perf_counter()
        try:
            adapter = self._source.read(path)
        except (ModelError, OSError) as error:
            return None, str(error)
        except Exception as error:  # a thread's boundary: whatever a file does to a library ends its own load alone
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
