"""JobKind and JobWork: the interface of a kind of background job."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Sequence
from typing import Any, Generic

from server.context import ServerContext
from server.jobs.environment import JobEnvironment
from server.jobs.table import JobTable, Record


class JobWork(ABC, Generic[Record]):
    """The work on one job, or on one stage of it, as one task.

    The task may be canceled at any moment. This server or the next one then makes new work from what is stored.
    """

    def __init__(self, record: Record) -> None:
        self.id = record.id

    @abstractmethod
    async def run(self) -> None:
        """Work until the job or its stage has ended. Raises EngineStopped if the server ends before."""

    async def follow(self, record: Record | None, *, is_canceled: bool) -> bool:  # noqa: ARG002
        """Follow what is stored of the job; return False if the task must be canceled.

        record: None if the job has ended. is_canceled: whether the task is canceled already, and still cleans up.
        """
        return record is not None

    def hurry(self) -> None:
        """Prepare for the end of the server, which cancels the task next, and waits for it."""


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
        """Whether the server can have jobs of this kind."""
        return True

    @abstractmethod
    def work(self, record: Record) -> JobWork[Record]:
        """Return the work that the job needs next."""

    async def select(self, waiting: Sequence[Record], works: Collection[JobWork[Record]]) -> Iterable[JobWork[Record]]:
        """Return the works to start now.

        waiting: the jobs that have not ended and have no work, the oldest first. works: those that run.
        """
        if self.env.context.drain.is_active:
            return []
        return [self.work(record) for record in waiting[: max(0, self.max_running - len(works))]]

    async def prepare(self) -> Collection[str]:
        """Prepare for the jobs of earlier servers; return ids of jobs that may have left something to clean up."""
        return ()

    async def update(self, active: Sequence[Record], works: Collection[JobWork[Record]]) -> None:
        """Update what depends on the jobs, such as metrics. Called after every look at the jobs."""

    def clean_up(self, record: Record) -> None:
        """Delete what a job that has ended needs no more. Blocks. Called whenever a job may have ended."""

    def unfinished_files(self, record: Record) -> Iterable[str]:  # noqa: ARG002
        """Return names of files on the disk that the job still writes, and that have no row yet."""
        return ()

    @property
    def max_age_s(self) -> float | None:
        """The time after its end at which a job is deleted; None for never. Needs a column `ended_s`."""
        return None

    async def close(self) -> None:
        """End what the kind itself has started."""
