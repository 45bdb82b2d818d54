"""AdapterService: loads adapters and fills the model's adapter slots, between the engine's steps."""

import time
from collections.abc import Callable
from typing import Generic

from engine.adapters.host import HostAdapters
from engine.adapters.reader import AdapterReader, LoadJob, LoadResult, PreparationJob, PreparationResult
from engine.adapters.source import A, AdapterSource, P
from engine.protocol import AdapterInfo, AdapterLoaded, AdapterRefused, AdapterStats
from engine.scheduling.adapters.slots import AdapterSlots, Fill
from engine.scheduling.scheduler import Scheduler

Answer = AdapterLoaded | AdapterRefused


class AdapterService(Generic[A, P]):
    """Answers operators' requests to load adapters, and fills the slots that the scheduler assigns.

    All methods are called by the engine's thread, and only `wait` waits. A slot is filled in two phases: while steps
    run, its adapter is read again if it is not in memory, and prepared; then, between two steps, it is put into the
    slot. Meanwhile the slot is empty, so that there are never more prepared adapters than slots.
    """

    def __init__(
        self,
        source: AdapterSource[A, P],
        *,
        max_rank: int,
        max_on_host: int,
        on_done: Callable[[], None],
        on_answer: Callable[[Answer], None],
    ) -> None:
        """on_done: called by another thread when `begin_step` has work. on_answer: called by `begin_step`, once per
        `load`."""
        self._source = source
        self._max_rank = max_rank
        self._on_answer = on_answer
        self._reader: AdapterReader[A, P] = AdapterReader(source, on_done)
        self._host: HostAdapters[A] = HostAdapters(max_on_host)
        self._fill_s: list[float] = []

    def has_work(self, scheduler: Scheduler) -> bool:
        """Return whether `begin_step` has work."""
        assert scheduler.adapters is not None
        return self._reader.has_done or scheduler.adapters.has_fills

    @property
    def is_reading(self) -> bool:
        """Whether the reader works on an adapter, or has a result for `begin_step`."""
        return self._reader.is_busy

    def wait(self) -> None:
        """Wait until `begin_step` has work. Must be called only while `is_reading`."""
        self._reader.wait()

    def load(self, number: int, path: str) -> None:
        """Start to read and check an adapter; a later `begin_step` answers with this number."""
        self._reader.start(LoadJob(number, path))

    def forget(self, digest: bytes) -> None:
        """Mark an adapter to be dropped when its last request has ended."""
        self._host.forget(digest)

    def begin_step(self, scheduler: Scheduler) -> None:
        """Answer finished loads, put prepared adapters into slots, and start to fill newly assigned slots."""
        assert scheduler.adapters is not None
        for done in self._reader.collect():
            if isinstance(done, LoadResult):
                self._take_loaded(done, scheduler)
            else:
                self._take_prepared(done, scheduler, scheduler.adapters)
        for fill in scheduler.adapters.take_fills():
            self._start(fill)
        if self._host.has_forgotten:
            self._host.drop_forgotten(scheduler.adapter_digests)

    def stats(self, scheduler: Scheduler) -> AdapterStats:
        """Return the adapter statistics since the last call, at the end of a step."""
        assert scheduler.adapters is not None
        fill_s, self._fill_s = self._fill_s, []
        return scheduler.adapters.take_stats(on_host=len(self._host), fill_s=fill_s)

    def _take_loaded(self, done: LoadResult[A], scheduler: Scheduler) -> None:
        self._on_answer(self._answer(done.job, done.adapter, done.error))
        if done.adapter is not None and done.adapter.rank <= self._max_rank:
            self._host.add(done.adapter, scheduler.adapter_digests)

    def _answer(self, job: LoadJob, adapter: A | None, error: str) -> Answer:
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
        self._source.empty(fill.slot)
        adapter = self._host.get(fill.adapter.digest)
        self._reader.start(PreparationJob(fill.slot, fill.adapter, adapter, time.perf_counter()))

    def _take_prepared(self, done: PreparationResult[A, P], scheduler: Scheduler, slots: AdapterSlots) -> None:
        if done.adapter is None or done.prepared is None:
            for sequence in slots.failed(done.job.slot):
                scheduler.fail(sequence.id, done.error)
            return
        if done.job.adapter is None:  # it was read again
            self._host.add(done.adapter, scheduler.adapter_digests)
        self._source.put(done.job.slot, done.prepared)
        self._fill_s.append(time.perf_counter() - done.job.began_s)
        slots.filled(done.job.slot)
