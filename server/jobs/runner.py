"""JobRunner: starts a server's background jobs, applies what clients change, and stops the jobs with the server."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Iterable
from sqlite3 import Connection
from typing import Any, Generic

from engine.errors import EngineStopped
from engine.wording import counted
from server.context import ServerContext
from server.errors import StorageFailed
from server.files.uploads import Uploads
from server.jobs.child import StartChild, start_child
from server.jobs.environment import AnswerBody, JobEnvironment, Sleep, new_environment
from server.jobs.kind import JobKind, JobWork
from server.jobs.persistence import shielded
from server.jobs.table import JobTable, Record
from server.keys.caller import ANYBODY

logger = logging.getLogger(__name__)

_LOOK_S = 1.0
_AGAIN_S = 30.0  # until a job, or a kind, is tried again that an error of the server's own has interrupted
_TIDY_S = 3600.0


class JobRunner:
    """Runs the jobs of all kinds. Their work may be interrupted at any moment, and continues after the server's next
    start.

    Clients change a job's stored record, and the runner acts on it. Invariant: a job has one task at a time.
    """

    def __init__(
        self,
        context: ServerContext,
        kinds: Iterable[type[JobKind[Any]]],
        answer: AnswerBody,
        *,
        start: StartChild = start_child,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        """kinds: kinds unavailable on this server are skipped. answer: answers a request body that did not come over
        HTTP. start: starts a child process. sleep: waits between retries."""
        self._env = env = new_environment(context, answer, start=start, sleep=sleep)
        self._kinds = [_RunnerOfKind(env, kind(env)) for kind in kinds if kind.is_available(context)]
        context.wake_job = self.wake

    @property
    def num_works(self) -> int:
        """Number of jobs that are being worked on."""
        return sum(len(each.works) for each in self._kinds)

    def wake(self, job_id: str) -> None:
        """Look at the jobs now, since this job is new or a client has requested another status."""
        for each in self._kinds:
            each.wake(job_id)

    async def prepare(self) -> None:
        """Take over the jobs of earlier servers. Raises StorageFailed."""
        await self._adopt()
        for each in self._kinds:
            await each.prepare()

    async def _adopt(self) -> None:
        """Assign to the first admin key the jobs, files and stored responses that were made while the server had no
        keys. Otherwise no key could see them, and unfinished jobs would wait forever."""
        owner = self._env.context.keys.ring.first_operator
        if owner is None:
            return

        def reassign(connection: Connection) -> int:
            change = "UPDATE {} SET owner = ? WHERE owner = ?"
            num_others = sum(
                connection.execute(change.format(table), (owner, ANYBODY.owner)).rowcount
                for table in ("files", "uploads", "entries")
            )
            return num_others + sum(each.table.reassign(connection, ANYBODY.owner, owner) for each in self._kinds)

        if num_objects := await self._env.files.database.run(reassign):
            logger.info(
                "%s (jobs, files, responses) from before this server had keys now belong to its first admin key",
                counted(num_objects, "object"),
            )

    async def run(self) -> None:
        """Run jobs until the server stops or this is canceled. Work that has not ended by then is interrupted."""
        beside = [
            asyncio.create_task(self._env.gate.watch(), name="idle-gate"),
            asyncio.create_task(self._keep_tidy(), name="tidy-files"),
        ]
        try:
            await asyncio.gather(*(each.run() for each in self._kinds))
        finally:
            await shielded(self._end(beside))

    async def _end(self, beside: list["asyncio.Task[None]"]) -> None:
        for task in beside:
            task.cancel()
        await asyncio.gather(*beside, *(each.end() for each in self._kinds), return_exceptions=True)

    # --- files --------------------------------------------------------------------------------------------------------

    async def _keep_tidy(self) -> None:
        while True:
            await asyncio.sleep(_TIDY_S)
            try:
                await self.tidy()
            except StorageFailed:  # which the store has logged
                pass
            except Exception:  # the boundary of this task: jobs continue
                logger.exception("an internal error interrupted the deletion of old files")

    async def tidy(self) -> None:
        """Delete expired files, uploads, and ended jobs. Raises StorageFailed."""
        files = self._env.files
        await files.expire()
        await Uploads(files).expire()
        for each in self._kinds:
            await each.delete_old(files.clock())

    async def sweep(self) -> None:
        """Tidy, and delete files on disk that an earlier server left and nothing refers to. Must be called before
        anything is written. Raises StorageFailed."""
        await self.tidy()
        known = set(await Uploads(self._env.files).names())
        for each in self._kinds:
            known |= await each.unfinished_files()
        await self._env.files.sweep(known)


class _RunnerOfKind(Generic[Record]):
    """Runs the jobs of one kind. An error in one kind does not affect the others."""

    def __init__(self, env: JobEnvironment, kind: JobKind[Record]) -> None:
        self._env = env
        self._kind = kind
        self._tasks: dict[str, tuple[JobWork[Record], asyncio.Task[None]]] = {}
        self._changed = asyncio.Event()
        self._woken: set[str] = set()  # jobs that may have ended, and left something
        self._failed_s: dict[str, float] = {}  # jobs whose work ended by an error of the server's own, and when

    @property
    def works(self) -> list[JobWork[Record]]:
        return [work for work, _ in self._tasks.values()]

    def wake(self, job_id: str) -> None:
        self._woken.add(job_id)
        self._changed.set()

    @property
    def table(self) -> JobTable[Record]:
        return self._kind.table

    async def prepare(self) -> None:
        self._woken |= set(await self._kind.prepare())

    async def run(self) -> None:
        while not self._env.context.drain.is_stopping:
            self._changed.clear()
            pause_s = _LOOK_S
            try:
                await self._look()
            except StorageFailed:  # which the store has logged; it may work again
                pass
            except Exception:  # the boundary of all jobs of the kind: those that run continue
                logger.exception("an internal error interrupted the work on jobs (%s)", self._kind.table.noun)
                pause_s = _AGAIN_S
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._changed.wait()

    async def end(self) -> None:
        tasks = [task for _, task in self._tasks.values()]
        for work in self.works:
            work.hurry()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, self._kind.close(), return_exceptions=True)

    async def _look(self) -> None:
        """Pass each job's current record to its running work, start new work, and clean up after ended jobs."""
        active = await self._active()
        by_id = {record.id: record for record in active}
        for work, task in list(self._tasks.values()):
            is_canceled = task.cancelling() > 0
            if not await work.follow(by_id.get(work.id), is_canceled=is_canceled) and not is_canceled:
                task.cancel()
        waiting = [each for each in active if each.id not in self._tasks and self._can_start(each.id)]
        for work in await self._kind.select(waiting, self.works):
            task = asyncio.create_task(self._run_work(work), name=f"{self._kind.table.noun} {work.id}")
            self._tasks[work.id] = work, task
        await self._clean_up()
        await self._kind.update(active, self.works)

    async def _active(self) -> list[Record]:
        return await self._env.files.database.run(self._kind.table.active)

    def _can_start(self, job_id: str) -> bool:
        return time.monotonic() - self._failed_s.get(job_id, -_AGAIN_S) >= _AGAIN_S

    async def _run_work(self, work: JobWork[Record]) -> None:
        try:
            await work.run()
            self._failed_s.pop(work.id, None)
        except EngineStopped:
            pass
        except Exception:  # the boundary of a job: others continue
            logger.exception(
                "an internal error interrupted the %s %s, which continues soon", self._kind.table.noun, work.id
            )
            self._failed_s[work.id] = time.monotonic()
        finally:
            del self._tasks[work.id]
            self.wake(work.id)

    async def _clean_up(self) -> None:
        table, database = self._kind.table, self._env.files.database
        for job_id in [each for each in self._woken if each not in self._tasks]:
            record = await database.run(lambda connection, job_id=job_id: table.find(connection, job_id))  # type: ignore[misc]
            if record is not None and record.status.has_ended:
                await asyncio.to_thread(self._kind.clean_up, record)
            self._woken.discard(job_id)

    async def delete_old(self, now_s: float) -> None:
        table, max_age_s = self._kind.table, self._kind.max_age_s
        if max_age_s is not None:
            await self._env.files.database.run(lambda connection: table.delete_ended(connection, now_s - max_age_s))

    async def unfinished_files(self) -> set[str]:
        return {name for record in await self._active() for name in self._kind.unfinished_files(record)}
