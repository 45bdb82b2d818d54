"""JobKind and JobWork: the interface of a kind of background job."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Sequence
from typing import Any, Generic

from server.context import ServerContext
from server.jobs.environment import JobEnvironment
from server.jobs.table import JobTable, Record


class JobWork(ABC, Generic[Record]):
    """The work on one job, or on one stage of it, run as one task.

    The task may be canceled at any moment. This server, or the next one, then creates new work from the stored record.
    """

    def __init__(self, record: Record) -> None:
        self.id = record.id

    @abstractmethod
    async def run(self) -> None:
        """Work until the job or its stage has ended. Raises EngineStopped if the server stops first."""

    async def follow(self, record: Record | None, *, is_canceled: bool) -> bool:  # noqa: ARG002
        """React to changes of the job's stored record; return False if the task must be canceled.

        record: None if the job has ended. is_canceled: whether the task is already canceled and is cleaning up.
        """
        return record is not None

    def hurry(self) -> None:
        """Prepare for the server's shutdown, which cancels the task next, and waits for it."""


class JobKind(ABC, Generic[Record]):
    """One kind of background job of one server: its table, its work, and the order in which jobs start.

    The class must be listed in `server.app.JOB_KINDS`. The runner starts the work, again after a restart or an error,
    and cancels it when the job has ended.
    """

    table: JobTable[Any]
    max_running = 1  # jobs that `select` lets run at once

    def __init__(self, env: JobEnvironment) -> None:
        self.env = env

    @classmethod
    def is_available(cls, context: ServerContext) -> bool:  # noqa: ARG003
        """Whether this server can run jobs of this kind."""
        return True

    @abstractmethod
    def work(self, record: Record) -> JobWork[Record]:
        """Return new work for the next stage of the job."""

    async def select(self, waiting: Sequence[Record], works: Collection[JobWork[Record]]) -> Iterable[JobWork[Record]]:
        """Return new work for the jobs to start now.

        waiting: jobs that have not ended and have no running work, oldest first. works: the running work of other jobs.
        """
        if self.env.context.drain.is_active:
            return []
        return [self.work(record) for record in waiting[: max(0, self.max_running - len(works))]]

    async def prepare(self) -> Collection[str]:
        """Take over the jobs of earlier servers; return ids of jobs that may need `clean_up`."""
        return ()

    async def update(self, active: Sequence[Record], works: Collection[JobWork[Record]]) -> None:
        """Update metrics and whatever else depends on the jobs. Called after each pass of the runner."""

    def clean_up(self, record: Record) -> None:
        """Delete what an ended job no longer needs. Blocks. May be called more than once for a job."""

    def unfinished_files(self, record: Record) -> Iterable[str]:  # noqa: ARG002
        """Return names of files on disk that the job is still writing, and that are not yet in the database."""
        return ()

    @property
    def max_age_s(self) -> float | None:
        """Seconds from a job's end to its deletion; None for never. Needs a column `ended_s`."""
        return None

    async def close(self) -> None:
        """Stop what the kind itself has started, such as tasks."""
