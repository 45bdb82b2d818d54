"""FinetuneRunner: which fine-tuning jobs are worked on now."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from engine.errors import EngineStopped
from server.config.finetuning import FinetuneYield
from server.context import ServerContext
from server.errors import StorageFailed
from server.finetuning.jobs import table
from server.finetuning.jobs.answering import AnswerChat
from server.finetuning.jobs.child import StartChild, start_child
from server.finetuning.jobs.cleanup import clean_up
from server.finetuning.jobs.folders import job_ids
from server.finetuning.jobs.idle_gate import IdleGate
from server.finetuning.jobs.journal import Journal
from server.finetuning.jobs.preparing import Preparing
from server.finetuning.jobs.publisher import Publisher
from server.finetuning.jobs.record import FinetuneRecord
from server.finetuning.jobs.surroundings import Surroundings
from server.finetuning.jobs.training import Training
from server.schemas.finetune_answers import FinetuneStatus

logger = logging.getLogger(__name__)

_LOOK_S, _AGAIN_S = 1.0, 30.0
_LAST_SAVE_S = 5.0  # for processes to save what they have when the server ends, which others wait for

Work = Preparing | Training


class FinetuneRunner:
    """One a server with --data-dir. It prepares one job and trains one, the oldest first; what it does can end at any
    moment, and goes on with the next server.

    A job's status says what is wanted of it, and the runner follows: it leaves a job that is no longer RUNNING, or
    VALIDATING_FILES, and takes it up again when it is. Invariants: a job has one task, and so one process, at a time;
    two are never trained at once; a job's status changes only from the one that its task works in.
    """

    def __init__(
        self,
        context: ServerContext,
        data_dir: str,
        start: StartChild | None = None,
        *,
        answer_chat: AnswerChat,
        sleep: Callable[[float], Awaitable[Any]] = asyncio.sleep,
    ) -> None:
        """start: of processes, by default real ones. answer_chat: as Surroundings has it. sleep: between attempts."""
        config = context.config.finetuning
        self._context = context
        self._changed = asyncio.Event()
        self._woken: set[str] = set()  # jobs that may have ended, and left something
        self._works: dict[str, tuple[Work, asyncio.Task[None]]] = {}
        self._reading: asyncio.Task[None] | None = None  # of adapters by their engines
        self._broken_s: dict[str, float] = {}  # jobs whose task ended by an error of the server's own, and when
        self._gate = IdleGate(
            lambda: context.models.has_work,
            config.finetune_yield,
            count_stopped=partial(context.metrics.add, "finetune_stopped_seconds_total"),
        )
        context.models.arrivals.subscribe(self._gate.note_request)
        context.wake_finetune = self.wake
        self._around = Surroundings(
            files=context.files,
            data_dir=data_dir,
            models=context.models,
            metrics=context.metrics,
            publisher=Publisher(context.models, data_dir, sleep=sleep),
            gate=self._gate,
            start_child=start or start_child,
            answer_chat=answer_chat,
            num_threads=config.finetune_threads,
            gives_way=config.finetune_yield is not FinetuneYield.NEVER,
            sleep=sleep,
        )

    @property
    def num_works(self) -> int:
        """Of jobs that are worked on now."""
        return len(self._works)

    def wake(self, job_id: str) -> None:
        """Look at once: the job was made, or another status is wanted of it."""
        self._woken.add(job_id)
        self._changed.set()

    async def take_up(self) -> None:
        """Have the names of the adapters of earlier servers' jobs, which are read beside the first requests, and see to
        what jobs that have ended left. Raises StorageFailed."""
        await self._around.publisher.announce_all(self._context.files.database)
        self._woken |= await asyncio.to_thread(job_ids, self._around.data_dir)

    async def run(self) -> None:
        """Work on jobs until this is canceled. Processes save what they have then."""
        watching = asyncio.create_task(self._gate.watch(), name="idle-gate")
        try:
            while True:
                self._changed.clear()
                pause_s = _LOOK_S
                try:
                    await self._look()
                except StorageFailed:  # which the store has told; it may work again
                    pass
                except Exception:  # the boundary of all jobs: those that are worked on go on
                    logger.exception("an internal error interrupted the work on fine-tuning jobs")
                    pause_s = _AGAIN_S
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(pause_s):
                        await self._changed.wait()
        finally:
            for work, _ in self._works.values():
                work.ending.hurry_after(_LAST_SAVE_S)
            tasks = [watching, *(task for _, task in self._works.values())]
            if self._reading is not None:
                tasks.append(self._reading)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _look(self) -> None:
        """Have each job's task do what its status asks for, and begin what can be begun."""
        records = await self._context.files.database.run(table.active)
        statuses = {record.id: record.status for record in records}
        for job_id, (work, task) in list(self._works.items()):
            await self._follow(job_id, work, task, statuses.get(job_id))
        if not self._context.drain.is_active:
            self._begin(Preparing, [each for each in records if each.status is FinetuneStatus.VALIDATING_FILES])
            await self._begin_training(records)
        await self._clean_up_some()
        await self._measure()
        self._read_adapters()

    def _read_adapters(self) -> None:
        if self._reading is not None and self._reading.done():
            reading, self._reading = self._reading, None
            reading.result()
        if self._reading is None and self._around.publisher.unread:
            self._reading = asyncio.create_task(self._around.publisher.read_unread(), name="adapters of jobs")

    async def _follow(self, job_id: str, work: Work, task: "asyncio.Task[None]", status: FinetuneStatus | None) -> None:
        """End the work unless the job's status is the one that it is for. status: None if the job has ended."""
        if status is work.status:
            return
        if isinstance(work, Training) and status is FinetuneStatus.QUEUED and not task.cancelling():
            await self._enter_running(job_id)  # paused and resumed before anybody looked
            return
        if status is None:
            work.ending.hurry()
        if not task.cancelling():
            task.cancel()

    def _begin(self, kind: type[Work], waiting: list[FinetuneRecord]) -> None:
        """Begin with the first, unless such work goes on."""
        if any(isinstance(work, kind) for work, _ in self._works.values()):
            return
        for record in waiting:
            if record.id not in self._works and self._may_begin(record.id):
                work = kind(record, self._around)
                task = asyncio.create_task(self._live(work), name=f"{kind.__name__.lower()} {record.id}")
                self._works[record.id] = work, task
                return

    async def _begin_training(self, records: list[FinetuneRecord]) -> None:
        """Go on with the job that was running, or else begin with the oldest one that is queued."""
        if any(isinstance(work, Training) for work, _ in self._works.values()):
            return
        running = [each for each in records if each.status is FinetuneStatus.RUNNING]
        queued = [each for each in records if each.status is FinetuneStatus.QUEUED]
        for record in [*running, *queued]:
            if record.id in self._works or not self._may_begin(record.id):
                continue
            if record.status is FinetuneStatus.QUEUED:
                changed = await self._enter_running(record.id)
                if changed is None:
                    continue
                record = changed
            self._begin(Training, [record])
            return

    async def _enter_running(self, job_id: str) -> FinetuneRecord | None:
        """None if a client wants something else of the job by now."""
        record = await self._context.files.database.run(lambda connection: table.get(connection, job_id))
        if record is None:
            return None
        journal = Journal(self._context.files, record, sleep=self._around.sleep)
        is_new = record.started_at is None
        event = journal.event("Fine-tuning job started" if is_new else "Fine-tuning job resumed")
        is_changed = await journal.change(
            FinetuneStatus.QUEUED, lambda each: each.enter(FinetuneStatus.RUNNING, journal.now_s), [event]
        )
        return journal.record if is_changed else None

    def _may_begin(self, job_id: str) -> bool:
        return time.monotonic() - self._broken_s.get(job_id, -_AGAIN_S) >= _AGAIN_S

    async def _live(self, work: Work) -> None:
        try:
            await work.run()
        except EngineStopped:
            pass
        except Exception:  # the boundary of a job: others go on
            logger.exception("an internal error interrupted fine-tuning job %s, which continues", work.id)
            self._broken_s[work.id] = time.monotonic()
        finally:
            del self._works[work.id]
            self.wake(work.id)

    async def _clean_up_some(self) -> None:
        """Delete what jobs need no more that have ended, whoever ended them."""
        for job_id in [each for each in self._woken if each not in self._works]:
            record = await self._context.files.database.run(partial(table.get, job_id=job_id))
            if record is not None and record.status.has_ended:
                await asyncio.to_thread(clean_up, self._around.data_dir, record)
            self._woken.discard(job_id)

    async def _measure(self) -> None:
        by_status = await self._context.files.database.run(table.by_status)
        self._context.metrics.set_finetune_jobs(
            {status.value: by_status.get(status.value, 0) for status in FinetuneStatus}
        )
