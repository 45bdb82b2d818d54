"""ProcessWork: one stage of a fine-tuning job, run in a child process that is restarted whenever it ends early."""

import logging
from typing import ClassVar

from server.finetuning.jobs.folders import job_folder
from server.finetuning.jobs.record import FinetuningRecord
from server.finetuning.jobs.table import FINETUNING_JOBS, FinetuningJournal
from server.jobs.child import ChildEnding
from server.jobs.environment import JobEnvironment
from server.jobs.kind import JobWork
from server.jobs.stalls import StallDetector
from server.schemas.finetuning_answers import FinetuningStatus

logger = logging.getLogger(__name__)

MAX_DEATHS = 3  # of a process, in a row without progress

_DEATH_PAUSES_S = (1.0, 10.0)  # after the first deaths
_PASSING_PAUSE_S = 30.0
_LAST_SAVE_S = 5.0  # for a process to save its work when the server ends


class ProcessWork(JobWork[FinetuningRecord]):
    """The work on a job while its status is `status`. Invariant: it never overwrites a status set by a client."""

    status: ClassVar[FinetuningStatus]

    def __init__(self, record: FinetuningRecord, env: JobEnvironment, *, is_saving: bool) -> None:
        """is_saving: whether the process can save its state when it is asked to end."""
        super().__init__(record)
        self._env = env
        self._ending = ChildEnding(is_saving)
        self._folder = job_folder(env.data_dir, record.id)
        self._journal = FinetuningJournal(env.files, FINETUNING_JOBS, record, sleep=env.sleep)
        self._stalls = StallDetector(env.gate, gives_way=env.gives_way)
        self._cause: str | None = None  # of the last wait, if there was no progress since

    async def follow(self, record: FinetuningRecord | None, *, is_canceled: bool) -> bool:  # noqa: ARG002
        if record is None:
            self._ending.kill()
        return record is not None and record.status is self.status

    def hurry(self) -> None:
        self._ending.kill_after(_LAST_SAVE_S)

    async def _is_wanted(self) -> bool:
        """Return whether the job still has `status`, and was not stopped by a client."""
        return await self._journal.change(status=self.status, is_durable=False)

    async def _wait(self, cause: str, *, message: str | None = None) -> bool:
        """Report a temporary cause of failure once, and pause before a retry. Return False if a client stopped the job.

        message: wording of the cause for clients, if different.
        """
        logger.warning("fine-tuning job %s waits: %s", self.id, cause)
        events = [] if cause == self._cause else [self._journal.event(message or cause, level="warn")]
        self._cause = cause
        if not await self._journal.change(events=events, status=self.status, is_durable=bool(events)):
            return False
        await self._env.sleep(_PASSING_PAUSE_S)
        return True

    async def _pause_after(self, num_deaths: int) -> None:
        await self._env.sleep(_DEATH_PAUSES_S[num_deaths - 1])
