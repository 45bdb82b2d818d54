"""Training: one job that is prepared, from its start to its end, in a task that may be ended and begun again."""

import asyncio
import logging

from engine.child_processes.background import IDLE, LOCK_HELD, NORMAL, TRY_AGAIN
from engine.child_processes.lifetime import describe_exit
from engine.command_io.finetuning.grader_mailbox import forget_questions
from server.finetuning.jobs.answering import Answering
from server.finetuning.jobs.child import Child, traceback_of
from server.finetuning.jobs.children import Ending, running
from server.finetuning.jobs.completion import finish
from server.finetuning.jobs.journal import Journal
from server.finetuning.jobs.progress import Progress
from server.finetuning.jobs.record import FinetuneRecord
from server.finetuning.jobs.standstill import Standstill
from server.finetuning.jobs.surroundings import DEATH_PAUSES_S, FULL_DISK_PAUSE_S, MAX_DEATHS, Surroundings, job_folder
from server.schemas.finetune_answers import FinetuneError, FinetuneStatus

logger = logging.getLogger(__name__)

_LOOK_S = 0.25  # at what the trainer has told
_FAILED = 1  # exit status of a trainer that has said why
_GOES_ON = "training continues from its saved state when that has passed"
_PASSING = {  # by exit status
    TRY_AGAIN: f"The server's disk is full; {_GOES_ON}",
    LOCK_HELD: f"Another process works in the job's folder; {_GOES_ON}",
}


class Training:
    """Works while the job is RUNNING. Ends as `run` returns; canceled, it leaves a job that goes on later."""

    status = FinetuneStatus.RUNNING

    def __init__(self, record: FinetuneRecord, around: Surroundings) -> None:
        self.id = record.id
        self.ending = Ending()
        self._around = around
        self._folder = job_folder(around, record)
        self._journal = Journal(around.files, record, sleep=around.sleep)
        self._progress = Progress(self._journal, self._folder, around)
        self._standstill = Standstill(around.gate, gives_way=around.gives_way)
        self._cause: str | None = None  # of the last wait
        self._answering: Answering | None = None  # of the last process

    async def run(self) -> None:
        num_deaths = 0
        while not self._progress.is_complete:
            if not await asyncio.to_thread(self._folder.job.exists):
                reason = "the job's files are no longer on the server's disk; create the job again"
                await self._journal.fail(self.status, FinetuneError("server_error", reason))
                return
            step = self._journal.record.step
            try:
                code = await self._train()
            except OSError as fault:
                await self._wait(f"The server cannot run the training process ({fault.strerror}); {_GOES_ON}")
                continue
            if self._journal.record.step > step:
                self._cause = None
            if self._progress.is_complete:
                break
            if not await self._is_wanted():
                return
            if code == _FAILED and (error := self._progress.error) is not None:
                await self._journal.fail(self.status, error)
                return
            if (cause := _PASSING.get(code)) is not None:
                await self._wait(cause)
                continue
            num_deaths = 1 if self._journal.record.step > step else num_deaths + 1
            if not await self._survives(num_deaths, code):
                return
        if await self._is_wanted():
            await finish(self._journal, self._around)

    async def _train(self) -> int:
        """Once: the exit status of the process."""
        arguments = [str(self._folder.path)]
        await self._progress.begin()
        await asyncio.to_thread(forget_questions, self._folder)
        priority = IDLE if self._around.gives_way else NORMAL
        async with running(
            self._around, "engine.finetuning", arguments, self._folder, self.ending, priority, self._look
        ) as child:
            exit_status = asyncio.ensure_future(child.wait())
            answering = Answering(self._folder, self._journal.record.owner, self._around.answer_chat)
            self._answering = answering
            try:
                while not exit_status.done():
                    await self._progress.take()
                    if self._journal.record.grader is not None:
                        await answering.look()
                    await self._look(child)
                    await asyncio.wait([exit_status], timeout=_LOOK_S)
                while await self._progress.take():  # it comes in parts
                    pass
                return exit_status.result()
            finally:
                exit_status.cancel()
                await answering.end()

    async def _look(self, child: Child | None = None) -> None:
        """Tell why it does not get on, if that has not been told yet."""
        is_asking = self._answering is not None and self._answering.is_busy
        reason = self._standstill.reason(self._journal.record.events_bytes, child, is_asking=is_asking)
        if reason is not None:
            await self._journal.tell(self.status, reason)

    async def _is_wanted(self) -> bool:
        """Whether no client has stopped the job: the end of its process is expected then."""
        return await self._journal.change(self.status, lambda _: None, is_durable=False)

    async def _wait(self, cause: str) -> None:
        """Until what stands in the way may have passed. It is told once, until there is a new step."""
        logger.warning("fine-tuning job %s waits: %s", self.id, cause)
        if cause != self._cause:
            await self._journal.tell(self.status, cause)
        self._cause = cause
        await self._around.sleep(FULL_DISK_PAUSE_S)

    async def _survives(self, num_deaths: int, code: int) -> bool:
        """Wait before the next start, or fail the job. num_deaths: in a row without a step."""
        how = describe_exit(code)
        if traceback := await asyncio.to_thread(traceback_of, self._folder.lock):
            logger.error("the process of fine-tuning job %s: %s", self.id, traceback)
        if num_deaths >= MAX_DEATHS:
            reason = f"the training process ended {num_deaths} times without a new step, the last time with {how}"
            await self._journal.fail(self.status, FinetuneError("server_error", reason))
            return False
        self._around.metrics.add("finetune_restarts_total", 1)
        logger.warning("the process of fine-tuning job %s ended with %s, and is started again", self.id, how)
        message = f"The training process ended unexpectedly ({how}); it continues from its last saved state"
        await self._journal.tell(self.status, message)
        await self._around.sleep(DEATH_PAUSES_S[num_deaths - 1])
        return True
