"""AdapterService: what an engine does with adapters between its steps."""

import logging
import time
from collections import deque
from collections.abc import Callable
from typing import Generic

from engine.adapters.host import HostAdapters
from engine.adapters.reader import AdapterReader, Done, Load, Reread
from engine.adapters.source import A, AdapterSource
from engine.protocol import AdapterInfo, AdapterLoaded, AdapterRefused, AdapterStats
from engine.scheduling.adapter_slots import AdapterSlots, Fill
from engine.scheduling.scheduler import Scheduler

logger = logging.getLogger(__name__)

Answer = AdapterLoaded | AdapterRefused


class AdapterService(Generic[A]):
    """Answers operators' loads, and fills the slots that the scheduler gives away.

    All methods are called by the engine's thread. A slot is filled between two steps: from memory, or once the adapter
    has been read again, which must have the same contents as when it was loaded. While sequences run, no more than one
    is filled between two steps: streams pause for each.
    """

    def __init__(
        self,
        source: AdapterSource[A],
        *,
        max_rank: int,
        max_on_host: int,
        on_done: Callable[[], None],
        on_answer: Callable[[Answer], None],
    ) -> None:
        """on_done: called by another thread when there is work. on_answer: to each `load`, called within
        `begin_step`."""
        self._source = source
        self._max_rank = max_rank
        self._on_answer = on_answer
        self._reader: AdapterReader[A] = AdapterReader(source.read, on_done)
        self._host: HostAdapters[A] = HostAdapters(max_on_host)
        self._ready: deque[tuple[int, A, float]] = deque()  # slot, what is to be put there, and since when it is wanted
        self._fill_s: list[float] = []

    def has_work(self, scheduler: Scheduler) -> bool:
        """Whether `begin_step` has something to do."""
        assert scheduler.adapters is not None
        return self._reader.has_done or scheduler.adapters.has_fills or bool(self._ready)

    @property
    def is_reading(self) -> bool:
        """Whether there is, or will be, work by itself."""
        return self._reader.is_busy

    def wait(self) -> None:
        """Return when there is work; call it only while `is_reading`."""
        self._reader.wait()

    def load(self, number: int, path: str) -> None:
        """Read an adapter and check it; a later step answers."""
        self._reader.start(Load(number, path))

    def forget(self, digest: bytes) -> None:
        """No new request will have this adapter."""
        self._host.forget(digest)

    def begin_step(self, scheduler: Scheduler) -> None:
        """Take in what has been read, and fill slots."""
        assert scheduler.adapters is not None
        for done in self._reader.collect():
            self._take(done, scheduler, scheduler.adapters)
        for fill in scheduler.adapters.take_fills():
            self._start(fill)
        for _ in range(min(1, len(self._ready)) if scheduler.running else len(self._ready)):
            self._put(*self._ready.popleft(), scheduler, scheduler.adapters)
        if self._host.has_forgotten:
            self._host.drop_forgotten(scheduler.adapter_digests)

    def stats(self, scheduler: Scheduler) -> AdapterStats:
        """Of the step that ends now."""
        slots = scheduler.adapters
        assert slots is not None
        fill_s, self._fill_s = self._fill_s, []
        return AdapterStats(
            running=slots.running_names,
            waiting=slots.waiting_names,
            slots_total=slots.num_total,
            slots_used=slots.num_used,
            slots_cached=slots.num_cached,
            on_host=len(self._host),
            fill_s=fill_s,
            evictions=slots.take_evictions(),
        )

    def _take(self, done: Done[A], scheduler: Scheduler, slots: AdapterSlots) -> None:
        job, adapter = done.job, done.adapter
        if isinstance(job, Load):
            self._on_answer(self._answer(job, adapter, done.error))
            if adapter is not None and adapter.rank <= self._max_rank:
                self._host.add(adapter, scheduler.adapter_digests)
        elif adapter is None:
            logger.error("the adapter %s cannot be read again: %s", job.name, done.error)
            self._fail(job.slot, scheduler, slots, f"the adapter {job.name!r} cannot be read any more")
        elif adapter.digest != job.digest:
            logger.error("the adapter %s has other contents in %s than when it was loaded", job.name, job.path)
            self._fail(job.slot, scheduler, slots, f"the adapter {job.name!r} has changed since it was loaded")
        else:
            self._host.add(adapter, scheduler.adapter_digests)
            self._ready.append((job.slot, adapter, job.began_s))

    def _answer(self, job: Load, adapter: A | None, error: str) -> Answer:
        if adapter is None:
            return AdapterRefused(job.number, error)
        if adapter.rank > self._max_rank:
            return AdapterRefused(
                job.number,
                f"{job.path} has rank {adapter.rank}, and --max-lora-rank is {self._max_rank}; start the server with "
                "a higher one",
            )
        info = AdapterInfo(
            digest=adapter.digest, rank=adapter.rank, num_bytes=adapter.num_bytes, base=adapter.base_model or None
        )
        return AdapterLoaded(job.number, info)

    def _start(self, fill: Fill) -> None:
        began_s, ref = time.perf_counter(), fill.adapter
        if (adapter := self._host.get(ref.digest)) is None:
            self._reader.start(Reread(fill.slot, ref.name, ref.path, ref.digest, began_s))
        else:
            self._ready.append((fill.slot, adapter, began_s))

    def _put(self, slot: int, adapter: A, began_s: float, scheduler: Scheduler, slots: AdapterSlots) -> None:
        try:
            self._source.put(slot, adapter)
        except Exception:  # such as a want of memory: it ends the requests that wait for it, and no other
            logger.exception("putting an adapter into slot %d failed", slot)
            self._fail(slot, scheduler, slots, "the adapter could not be made ready; send the request again")
            return
        self._fill_s.append(time.perf_counter() - began_s)
        slots.filled(slot)

    def _fail(self, slot: int, scheduler: Scheduler, slots: AdapterSlots, error: str) -> None:
        for sequence in slots.failed(slot):
            scheduler.fail(sequence.id, error)
