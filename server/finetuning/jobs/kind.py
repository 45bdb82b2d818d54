"""FinetuningJobs: the job kind for fine-tuning; chooses the jobs to prepare and to train."""

import asyncio
from collections.abc import Collection, Sequence

from server.context import ServerContext
from server.finetuning.jobs.file_preparation import FilePreparation
from server.finetuning.jobs.folders import clean_up, job_ids
from server.finetuning.jobs.publisher import Publisher
from server.finetuning.jobs.record import FinetuningRecord
from server.finetuning.jobs.table import FINETUNING_JOBS
from server.finetuning.jobs.training import Training, enter_running
from server.jobs.environment import JobEnvironment
from server.jobs.kind import JobKind, JobWork
from server.schemas.finetuning_answers import FinetuningStatus


class FinetuningJobs(JobKind[FinetuningRecord]):
    """The fine-tuning jobs of a server with --data-dir. One job at a time is prepared, and one trained."""

    table = FINETUNING_JOBS

    def __init__(self, env: JobEnvironment) -> None:
        super().__init__(env)
        self._publisher = Publisher(env.models, env.data_dir, sleep=env.sleep)
        self._reading: asyncio.Task[None] | None = None  # of adapters by their engines

    @classmethod
    def is_available(cls, context: ServerContext) -> bool:
        return context.config.data_dir is not None

    def work(self, record: FinetuningRecord) -> JobWork[FinetuningRecord]:
        if record.status is FinetuningStatus.VALIDATING_FILES:
            return FilePreparation(record, self.env)
        return Training(record, self.env, self._publisher)

    async def select(
        self, waiting: Sequence[FinetuningRecord], works: Collection[JobWork[FinetuningRecord]]
    ) -> list[JobWork[FinetuningRecord]]:
        """Select the oldest job to prepare, and a job to train: the interrupted one, or else the oldest queued one."""
        if self.env.context.drain.is_active:
            return []
        chosen: list[JobWork[FinetuningRecord]] = []
        if not any(isinstance(work, FilePreparation) for work in works):
            new = [each for each in waiting if each.status is FinetuningStatus.VALIDATING_FILES]
            chosen += [self.work(record) for record in new[:1]]
        if not any(isinstance(work, Training) for work in works):
            record = await self._next_to_train(waiting)
            chosen += [] if record is None else [self.work(record)]
        return chosen

    async def _next_to_train(self, waiting: Sequence[FinetuningRecord]) -> FinetuningRecord | None:
        for record in waiting:
            if record.status is FinetuningStatus.RUNNING:
                return record
        for record in waiting:
            if record.status is FinetuningStatus.QUEUED and (running := await enter_running(self.env, record)):
                return running
        return None

    async def prepare(self) -> set[str]:
        """Register the adapters of earlier jobs, to be loaded in the background; return the ids of jobs with
        folders."""
        await self._publisher.announce_all(self.env.files.database)
        return await asyncio.to_thread(job_ids, self.env.data_dir)

    async def update(self, active: Sequence[FinetuningRecord], works: Collection[JobWork[FinetuningRecord]]) -> None:  # noqa: ARG002
        by_status = await self.env.files.database.run(FINETUNING_JOBS.by_status)
        self.env.metrics.set_each("finetune_jobs", by_status)
        if self._reading is not None and self._reading.done():
            reading, self._reading = self._reading, None
            reading.result()
        if self._reading is None and self._publisher.unread:
            self._reading = asyncio.create_task(self._publisher.read_unread(), name="adapters of jobs")

    def clean_up(self, record: FinetuningRecord) -> None:
        clean_up(self.env.data_dir, record)

    async def close(self) -> None:
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)
