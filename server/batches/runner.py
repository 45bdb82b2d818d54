"""BatchRunner: which batches run now, and what is kept up around them."""

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from engine.errors import EngineUnavailable
from server.batches import table
from server.batches.answers import LineAnswer
from server.batches.job import Job
from server.batches.places import Places
from server.batches.record import BatchRecord
from server.batches.running import run_body
from server.batches.surroundings import Sleep, Surroundings
from server.context import ServerContext
from server.errors import StorageFailed
from server.files.uploads import Uploads
from server.keys.caller import Caller
from server.schemas.batch_answers import BatchStatus

logger = logging.getLogger(__name__)

_MAX_JOBS = 16  # batches that run at once, and as many that end; each holds a window of lines
_LINES_PER_PLACE = 3  # of an engine: those that run, as many that wait in it, and as many that are made ready
_LINES_UNTIL_KNOWN = 8
_LOOK_S, _TIDY_S, _AGAIN_S = 1.0, 3600.0, 30.0

Run = Callable[[ServerContext, Caller, str, dict[str, Any], Sleep], Awaitable[LineAnswer]]


async def _run_body(
    context: ServerContext, caller: Caller, endpoint: str, body: dict[str, Any], sleep: Sleep
) -> LineAnswer:
    return await run_body(context, caller, endpoint, body, sleep=sleep)


class BatchRunner:
    """One a server. What it does can end at any moment, and goes on with the next one."""

    def __init__(self, context: ServerContext, run: Run = _run_body, *, sleep: Sleep = asyncio.sleep) -> None:
        self._context = context
        self._jobs: dict[str, tuple[Job, asyncio.Task[None]]] = {}
        self._places: dict[str, Places] = {}
        self._broken_s: dict[str, float] = {}  # batches whose job ended by an error of the server's own, and when
        self._tidied_s = time.monotonic()
        self._surroundings = Surroundings(
            files=context.files,
            run_body=partial(run, context),
            find_caller=context.keys.ring.batch_caller,
            places=self._places_of,
            quiet=self._quiet,
            may_feed=lambda: not context.drain.is_active,
            count=context.metrics.count_batch_lines,
            default_model=context.models.default.name,
            max_lines=context.config.storage.max_batch_requests,
            max_line_bytes=context.config.max_request_bytes,
            sleep=sleep,
        )

    async def run(self) -> None:
        """Run batches until the server stops, or this is canceled. Lines that are not answered then are begun again by
        the next server."""
        changed = self._context.batches_changed
        try:
            while not self._context.drain.is_stopping:
                changed.clear()
                pause_s = _LOOK_S
                try:
                    await self._look()
                except StorageFailed:  # which the store has told; it may work again
                    pass
                except Exception:  # the boundary of all batches: those that run go on
                    logger.exception("an internal error interrupted the work on batches")
                    pause_s = _AGAIN_S
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(pause_s):
                        await changed.wait()
        finally:
            tasks = [task for _, task in self._jobs.values()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _look(self) -> None:
        """Begin and cancel what there is to begin and cancel."""
        database = self._context.files.database
        records = await database.run(table.active)
        for record in records:
            if record.status is BatchStatus.CANCELLING and record.id in self._jobs:
                self._jobs[record.id][0].cancel()
        self._begin_some([each for each in records if each.id not in self._jobs and self._may_begin(each.id)])
        for places in self._places:
            self._places[places].change_limit(self._limit(places))
        if time.monotonic() - self._tidied_s >= _TIDY_S:
            self._tidied_s = time.monotonic()
            await tidy_files(self._context)
        await self._measure(records)

    def _may_begin(self, batch_id: str) -> bool:
        return time.monotonic() - self._broken_s.get(batch_id, -_AGAIN_S) >= _AGAIN_S

    def _begin_some(self, waiting: list[BatchRecord]) -> None:
        """Begin the oldest of whoever has the fewest that run. The first of each owner is begun however many others
        run, which may not go on for long. Batches whose owner has no key now wait, and hold up none; those that have
        nothing left but to be ended need not wait for those that run."""
        now_s = self._context.files.clock()
        ending = [each for each in waiting if each.status is BatchStatus.CANCELLING or each.is_late(now_s)]
        num_ending = sum(job.is_ending for job, _ in self._jobs.values())
        for record in ending[: max(0, _MAX_JOBS - num_ending)]:
            self._begin(record)
        owners = {each.owner for each in waiting} | {job.owner for job, _ in self._jobs.values()}
        find_caller = self._context.keys.ring.batch_caller
        present = {owner for owner in owners if find_caller(owner) is not None}
        ids = {each.id for each in ending}
        waiting = [each for each in waiting if each.id not in ids and each.owner in present]
        running = Counter(job.owner for job, _ in self._jobs.values() if job.owner in present and not job.is_ending)
        while waiting:
            record = min(waiting, key=lambda each: running[each.owner])
            if running.total() >= _MAX_JOBS and running[record.owner]:
                break
            waiting.remove(record)
            running[record.owner] += 1
            self._begin(record)

    def _begin(self, record: BatchRecord) -> None:
        job = Job(record, self._surroundings)
        self._jobs[record.id] = job, asyncio.create_task(self._live(job), name=f"batch {record.id}")

    async def _live(self, job: Job) -> None:
        try:
            await job.run()
            self._broken_s.pop(job.id, None)
        except Exception:  # the boundary of a batch: others go on
            logger.exception("an internal error interrupted batch %s, which starts again", job.id)
            self._broken_s[job.id] = time.monotonic()
        finally:
            del self._jobs[job.id]
            self._context.batches_changed.set()

    def _places_of(self, model: str | None) -> Places:
        """Those of the engine that a batch's lines are for."""
        name = self._context.models.get_or_default(model).name
        if name not in self._places:
            self._places[name] = Places(self._limit(name))
        return self._places[name]

    async def _quiet(self, model: str | None, at_most_s: float) -> None:
        """A model whose engine is not there has no clients with work."""
        with contextlib.suppress(EngineUnavailable):
            await self._context.models.get_or_default(model).client.batch_lane.quiet(at_most_s)

    def _limit(self, name: str) -> int:
        model = self._context.models.get_or_default(name)
        if model.info is None:
            return _LINES_UNTIL_KNOWN
        # A model that has to make room for another one finishes what has begun.
        return model.info.max_num_seqs * (_LINES_PER_PLACE if model.loader is None else 1)

    async def _measure(self, records: list[BatchRecord]) -> None:
        context, metrics = self._context, self._context.metrics
        by_status = await context.files.database.run(table.by_status)
        metrics.set_batches({status.value: by_status.get(status.value, 0) for status in BatchStatus})
        num_running = sum(job.num_running for job, _ in self._jobs.values())
        num_left = sum(each.total - each.completed - each.failed for each in records)
        metrics.set("batch_lines_running", num_running)
        metrics.set("batch_lines_waiting", max(0, num_left - num_running))
        num_files, num_bytes = await context.files.totals()
        metrics.set("files", num_files)
        metrics.set("files_bytes", num_bytes)


async def tidy_files(context: ServerContext) -> None:
    """Delete what is too old: files, and batches that have ended. Raises StorageFailed."""
    files = context.files
    before_s = files.clock() - context.config.storage.batch_max_age
    await files.expire()
    await Uploads(files).expire()
    await files.database.run(lambda connection: table.forget(connection, before_s))


async def sweep_files(context: ServerContext) -> None:
    """Before anything is written: remove what an earlier server left on the disk that is nobody's. Raises
    StorageFailed."""
    await tidy_files(context)
    active = await context.files.database.run(table.active)
    parts = await Uploads(context.files).names()
    await context.files.sweep(parts.union(name for record in active for name in record.names))
