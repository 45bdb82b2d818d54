"""Training: the second stage of a fine-tuning job, which runs the trainer."""

import asyncio
import logging

from engine.child_processes.background import IDLE, LOCK_HELD, NORMAL, TRY_AGAIN
from engine.child_processes.lifetime import describe_exit
from engine.command_io.finetuning.graders.grading import ScoreAnswer, ScoreQuestion
from engine.command_io.finetuning.job import JobFolder
from engine.command_io.finetuning.mailbox import forget_questions
from server.finetuning.jobs.completion import finish
from server.finetuning.jobs.process_work import MAX_DEATHS, ProcessWork
from server.finetuning.jobs.progress import Progress
from server.finetuning.jobs.publisher import Publisher
from server.finetuning.jobs.record import FinetuningRecord
from server.finetuning.jobs.table import FINETUNING_JOBS, FinetuningJournal
from server.finetuning.scoring import ENDPOINT, chat_body, read_chat_score, unscored
from server.jobs.child import Child, traceback_of
from server.jobs.environment import JobEnvironment
from server.jobs.mailbox import NO_KEY, Mailbox
from server.schemas.finetuning_answers import FinetuningError, FinetuningStatus

logger = logging.getLogger(__name__)

_LOOK_S = 0.25  # between two looks at the trainer's events
_FAILED = 1  # exit status of a trainer that has reported why
_CONTINUES = "training continues from its saved state when that has passed"
_PASSING = {  # by exit status
    TRY_AGAIN: f"The server's disk is full; {_CONTINUES}",
    LOCK_HELD: f"Another process works in the job's folder; {_CONTINUES}",
}
_GRADING = (
    "Waiting: models that grade have not answered yet; their requests give way to clients', and they may have to be "
    "loaded"
)


class Training(ProcessWork):
    status = FinetuningStatus.RUNNING

    def __init__(self, record: FinetuningRecord, env: JobEnvironment, publisher: Publisher) -> None:
        super().__init__(record, env, is_saving=True)
        self._publisher = publisher
        self._progress = Progress(self._journal, self._folder, env, publisher)
        self._mailbox: Mailbox[ScoreQuestion] | None = None  # of the last process

    async def follow(self, record: FinetuningRecord | None, *, is_canceled: bool) -> bool:
        if record is not None and record.status is FinetuningStatus.QUEUED and not is_canceled:
            await enter_running(self._env, record)  # a client paused and resumed it since the last look
            return True
        return await super().follow(record, is_canceled=is_canceled)

    async def run(self) -> None:
        num_deaths = 0
        while not self._progress.is_complete:
            if not await asyncio.to_thread(self._folder.job.exists):
                reason = "the job's files are no longer on the server's disk; create the job again"
                await self._journal.fail(self.status, FinetuningError("server_error", reason))
                return
            step = self._journal.record.step
            try:
                code = await self._train()
            except OSError as fault:
                cause = f"The server cannot run the training process ({fault.strerror}); {_CONTINUES}"
                if not await self._wait(cause):
                    return
                continue
            has_progressed = self._journal.record.step > step
            if has_progressed:
                self._cause = None
            if self._progress.is_complete:
                break
            if not await self._is_wanted():
                return
            if code == _FAILED and (error := self._progress.error) is not None:
                await self._journal.fail(self.status, error)
                return
            if (passing := _PASSING.get(code)) is not None:
                if not await self._wait(passing):
                    return
                continue
            num_deaths = 1 if has_progressed else num_deaths + 1
            if not await self._survive(num_deaths, code):
                return
        if await self._is_wanted():
            await finish(self._journal, self._env, self._publisher)

    async def _train(self) -> int:
        """Run the trainer process once; return its exit status."""
        await self._progress.begin()
        await asyncio.to_thread(forget_questions, self._folder)
        process = self._env.child(
            "engine.finetuning",
            [str(self._folder.path)],
            lock=self._folder.lock,
            ending=self._ending,
            priority=IDLE if self._env.gives_way else NORMAL,
            look=self._look,
        )
        async with process as child:
            exit_status = asyncio.ensure_future(child.wait())
            mailbox = grader_mailbox(self._folder, self._journal.record.owner, self._env)
            self._mailbox = mailbox
            try:
                while not exit_status.done():
                    await self._progress.take()
                    if self._journal.record.grader is not None:
                        await mailbox.look()
                    await self._look(child)
                    await asyncio.wait([exit_status], timeout=_LOOK_S)
                while await self._progress.take():  # the rest comes in parts
                    pass
                return exit_status.result()
            finally:
                exit_status.cancel()
                await mailbox.close()

    async def _look(self, child: Child | None = None) -> None:
        """Report the reason for a stall as an event of the job, once."""
        is_grading = self._mailbox is not None and self._mailbox.is_busy
        reason = self._stalls.reason(
            self._journal.record.events_bytes, child, known_reason=_GRADING if is_grading else None
        )
        if reason is not None:
            await self._journal.warn(self.status, reason)

    async def _survive(self, num_deaths: int, code: int) -> bool:
        """Pause before a restart of the trainer; or fail the job and return False. num_deaths: number of trainer deaths
        since the last new step. code: exit status of the last process."""
        how = describe_exit(code)
        if traceback := await asyncio.to_thread(traceback_of, self._folder.lock):
            logger.error("the process of fine-tuning job %s: %s", self.id, traceback)
        if num_deaths >= MAX_DEATHS:
            reason = f"the training process ended {num_deaths} times without a new step, the last time with {how}"
            await self._journal.fail(self.status, FinetuningError("server_error", reason))
            return False
        self._env.metrics.add("finetune_restarts_total", 1)
        logger.warning("the process of fine-tuning job %s ended with %s, and is started again", self.id, how)
        message = f"The training process ended unexpectedly ({how}); it continues from its last saved state"
        await self._journal.warn(self.status, message)
        await self._pause_after(num_deaths)
        return True


async def enter_running(env: JobEnvironment, record: FinetuningRecord) -> FinetuningRecord | None:
    """Set a queued job to RUNNING, and return it; None if a client has changed its status meanwhile."""
    journal = FinetuningJournal(env.files, FINETUNING_JOBS, record, sleep=env.sleep)
    is_new = record.started_at is None
    event = journal.event("Fine-tuning job started" if is_new else "Fine-tuning job resumed")
    is_changed = await journal.change(
        lambda each: each.enter(FinetuningStatus.RUNNING, journal.now_s), [event], status=FinetuningStatus.QUEUED
    )
    return journal.record if is_changed else None


def grader_mailbox(folder: JobFolder, owner: str, env: JobEnvironment) -> Mailbox[ScoreQuestion]:
    """Return a mailbox for a trainer's questions to grading models. owner: the key that the requests count for."""

    async def score(question: ScoreQuestion) -> ScoreAnswer:
        caller = env.find_caller(owner)
        if caller is None:
            return unscored(NO_KEY)
        return read_chat_score(await env.answer(caller, ENDPOINT, chat_body(question), asyncio.sleep))

    return Mailbox(folder, ScoreQuestion, score)
