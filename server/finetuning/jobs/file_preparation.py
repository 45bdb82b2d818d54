"""FilePreparation: the first stage of a fine-tuning job, which validates and tokenizes its files."""

import asyncio
import logging
import time
from dataclasses import replace
from sqlite3 import Connection

import msgspec

from engine.child_processes.background import LOCK_HELD, LOW, NORMAL, REASON_PREFIX, TRY_AGAIN
from engine.child_processes.lifetime import describe_exit
from engine.command_io.finetuning.events import JobEvent
from engine.command_io.finetuning.job import JobFolder, TrainingMethod, write_atomically
from engine.command_io.finetuning.mailbox import BodyQuestion, forget_questions
from engine.command_io.finetuning.plan import TrainingPlan
from engine.config import EngineConfig
from engine.protocol import EngineInfo
from engine.wording import counted
from server.errors import StorageFull
from server.files import table as file_table
from server.files.table import File
from server.finetuning.job_files import MODEL_OPTIONS, JobOrder
from server.finetuning.jobs.folders import found_path
from server.finetuning.jobs.objects import for_clients
from server.finetuning.jobs.process_work import MAX_DEATHS, ProcessWork
from server.finetuning.jobs.record import FinetuningRecord
from server.finetuning.jobs.stored_files import new_names, remove_unknown, store_copy
from server.finetuning.preparation import report_notes
from server.finetuning.prepare_process import Faulty, Made, Outcome, PrepareTask, Refused, task_file
from server.finetuning.prepared_data import add_training_time
from server.jobs.answers import BodyAnswer
from server.jobs.child import Child, read_log
from server.jobs.environment import JobEnvironment
from server.jobs.mailbox import NO_KEY, Mailbox
from server.schemas.files import FINE_TUNE, FINE_TUNE_RESULTS
from server.schemas.finetuning_answers import FinetuningError, FinetuningStatus
from server.served.model import ServedModel

logger = logging.getLogger(__name__)

_PROGRESS_S = 60.0  # between two events about answers
_LOOK_S = 0.25  # between two looks at the process: its questions, and whether it makes progress
_PLAN_ATTEMPTS = 2  # to plan the training, whose time is only an estimate
_FAILED = 1  # exit status of a process that has reported why
_ASKING = (
    "Waiting: models that score or judge lines have not answered yet; their requests give way to clients', and they "
    "may have to be loaded"
)
_AGAIN = "this is tried again"
_PASSING = {  # by exit status
    TRY_AGAIN: "The server's disk is full; the files are tried again until there is room",
    LOCK_HELD: "Another process works in the job's folder; the files are tried again when it has ended",
}

_decode = msgspec.json.Decoder(Outcome).decode


class _EndedEarly(Exception):
    """The preparation process ended without an outcome. code: its exit status."""

    def __init__(self, code: int) -> None:
        super().__init__(describe_exit(code))
        self.code = code


class FilePreparation(ProcessWork):
    """Validates and tokenizes a job's files in a child process. Sets the job to QUEUED or FAILED, unless canceled."""

    status = FinetuningStatus.VALIDATING_FILES

    def __init__(self, record: FinetuningRecord, env: JobEnvironment) -> None:
        super().__init__(record, env, is_saving=False)
        self._mailbox: Mailbox[BodyQuestion] | None = None  # of the last process
        self._num_shown, self._show_at_s = 0, 0.0  # answers of the last event; the next one follows then

    async def run(self) -> None:
        record = self._journal.record
        name = self._env.models.canonical(record.base_model)
        model = next((each for each in self._env.models if each.name == name), None)
        if model is None:
            reason = f"the model {record.base_model!r} is not served any more"
            await self._journal.fail(self.status, FinetuningError("model_not_found", reason, "model"))
            return
        if (outcome := await self._outcome(model)) is not None:
            await self._store(outcome)

    async def _outcome(self, model: ServedModel) -> Outcome | None:
        """Run the process until there is an outcome. Returns None if the job has failed or a client stopped it."""
        num_deaths = 0
        while True:
            try:
                outcome = await self._prepare(model)
                if not (isinstance(outcome, Refused) and outcome.is_passing):
                    return outcome
                cause = f"{outcome.message[:1].upper()}{outcome.message[1:]}; {_AGAIN}"
            except OSError as error:
                cause = f"The server cannot prepare the files ({error.strerror}); {_AGAIN}"
            except _EndedEarly as error:
                if error.code not in _PASSING:
                    num_deaths += 1
                    if not await self._survive(num_deaths, error):
                        return None
                    continue
                cause = _PASSING[error.code]
            if not await self._wait(cause, message=for_clients(cause)):
                return None

    async def _survive(self, num_deaths: int, ended: _EndedEarly) -> bool:
        """Pause before a restart of the process. Returns False if the job has failed or a client stopped it."""
        reason = await asyncio.to_thread(_reported_reason, self._folder) if ended.code == _FAILED else None
        if reason is not None:
            logger.warning("fine-tuning job %s: %s", self.id, reason)
        if num_deaths >= MAX_DEATHS:
            message = f"the process that reads the files ended {num_deaths} times: {ended}"
            if reason is not None:  # it may have been a network, or a folder that was being written
                message = f"the model's tokenizer cannot be read: {for_clients(reason)}"
            await self._journal.fail(self.status, FinetuningError("server_error", message))
            return False
        if not await self._is_wanted():
            return False
        await self._pause_after(num_deaths)
        return True

    async def _prepare(self, model: ServedModel) -> Outcome:
        """Run the preparation process once. Raises _EndedEarly if its exit status is not 0, and OSError."""
        task = self._task(model)
        await asyncio.to_thread(_write, self._folder, task, model.info)
        if model.info is None:  # the model has not been loaded yet
            options = msgspec.json.encode(task.order.engine).decode()
            await self._run_process("engine.finetuning.describe", str(self._folder.path), options)
        outcome = _decode(await self._run_process("server.finetuning.prepare_process", str(self._folder.path)))
        order = task.order
        has_length = order.method is not TrainingMethod.REINFORCEMENT
        if isinstance(outcome, Made) and order.hyperparameters.data_preparation is not None and has_length:
            await self._add_training_time()
        return outcome

    async def _add_training_time(self) -> None:
        """Add the expected time of the training to the report of the file's preparation. If it cannot be planned, leave
        it out and warn why: an estimate fails no job, and the trainer reports again what hinders it."""
        path = msgspec.json.encode(str(self._folder.path)).decode()
        for num_deaths in range(1, _PLAN_ATTEMPTS + 1):
            try:
                plan = msgspec.json.decode(await self._run_process("engine.finetuning.plan", path), type=TrainingPlan)
                await asyncio.to_thread(add_training_time, self._folder, plan)
                return
            except OSError as error:
                described = error.strerror or type(error).__name__
            except _EndedEarly as error:
                described = str(error)
                if error.code == _FAILED:
                    reason = await asyncio.to_thread(_reported_reason, self._folder)
                    described = described if reason is None else for_clients(reason)
                elif num_deaths < _PLAN_ATTEMPTS:  # it may have been ended with the server, which is about to stop
                    await self._pause_after(num_deaths)
                    continue
            break
        message = f"The report has no expected training time: {described}"
        logger.warning("fine-tuning job %s: %s", self.id, message)
        await self._journal.warn(self.status, message)

    def _task(self, model: ServedModel) -> PrepareTask:
        record, disk = self._journal.record, self._env.files.disk
        options = {name: getattr(model.engine, name) for name in MODEL_OPTIONS}
        num_threads = self._env.context.config.finetuning.finetune_threads
        order = JobOrder(
            engine=replace(EngineConfig(model=model.engine.model, **options), threads=num_threads),
            method=record.method,
            hyperparameters=record.hyperparameters,
            grader=record.grader,
            seed=record.seed,
            start=None if record.start is None else found_path(self._env.data_dir, record.start),
            served_model=record.model,
            chat_template=model.config.chat_template,
            tool_call_parser=model.config.tool_call_parser,
            reasoning_parser=model.config.reasoning_parser,
        )
        valid = None if record.validation_file is None else str(disk.path(record.validation_file))
        steps = record.hyperparameters.data_preparation
        against = [] if steps is None else [(name, str(disk.path(name))) for name in steps.decontaminate_against]
        train = str(disk.path(record.training_file))
        return PrepareTask(order=order, train=train, valid=valid, against=against)

    async def _run_process(self, module: str, *arguments: str) -> bytes:
        """Run a module as a child process, and return its stdout. Raises _EndedEarly if its exit status is not 0."""
        process = self._env.child(
            module,
            [*arguments],
            lock=self._folder.lock,
            ending=self._ending,
            priority=LOW if self._env.gives_way else NORMAL,  # not idle: a user waits to hear what is wrong
            look=self._look,
        )
        await asyncio.to_thread(forget_questions, self._folder)
        async with process as child:
            output = asyncio.ensure_future(child.output())
            mailbox = self._mailbox = body_mailbox(self._folder, self._journal.record.owner, self._env)
            try:
                while not output.done():
                    await mailbox.look()
                    await self._look(child)
                    await asyncio.wait([output], timeout=_LOOK_S)
                await self._show_answered(mailbox)
                if (code := await child.wait()) != 0:
                    raise _EndedEarly(code)
                return output.result()
            finally:
                output.cancel()
                await mailbox.close()

    async def _look(self, child: Child | None = None) -> None:
        """Report the reason for a stall as an event of the job, once, and what models have answered."""
        mailbox = self._mailbox
        num_answered = 0 if mailbox is None else mailbox.num_answered
        known_reason = _ASKING if mailbox is not None and mailbox.is_busy else None
        reason = self._stalls.reason((self.status, num_answered), child, known_reason=known_reason)
        if reason is not None:
            await self._journal.warn(self.status, reason)
        await self._show_answered(mailbox)

    async def _show_answered(self, mailbox: Mailbox[BodyQuestion] | None) -> None:
        """Add an event with the number of answered requests, at most once a minute."""
        now_s = time.monotonic()
        num_answered = 0 if mailbox is None else mailbox.num_answered
        if num_answered not in (0, self._num_shown) and now_s >= self._show_at_s:
            self._num_shown, self._show_at_s = num_answered, now_s + _PROGRESS_S
            message = f"Scores and judgments of lines: {counted(num_answered, 'request')} answered so far"
            await self._journal.change(events=[self._journal.event(message)], status=self.status)

    async def _store(self, outcome: Outcome) -> None:
        record = self._journal.record
        match outcome:
            case Made(report=report):
                await self._store_made([self._journal.event(for_clients(note)) for note in report_notes(report)])
            case Faulty(faults=faults, is_validation=is_validation):
                param = "validation_file" if is_validation else "training_file"
                events = [
                    self._journal.event(f"{param}: {fault.text}", level="error", line=fault.line, param=param)
                    for fault in faults
                ]
                more = f" (and {len(faults) - 1} more faults, which the job's events list)" if len(faults) > 1 else ""
                file_id = record.validation_file if is_validation else record.training_file
                reason = f"{file_id}: {faults[0].text}{more}"
                await self._journal.fail(self.status, FinetuningError(f"invalid_{param}", reason, param), events)
            case Refused(message=message, param=param):
                await self._journal.fail(self.status, FinetuningError("invalid_request", for_clients(message), param))

    async def _store_made(self, events: list[JobEvent]) -> None:
        """Store the prepared file and its report as files of the job's key, and set the job to QUEUED."""
        env, journal, folder, files = self._env, self._journal, self._folder, list[File]()
        record = journal.record
        copies = [
            (folder.data_report, FINE_TUNE_RESULTS, folder.data_report.name),
            (folder.prepared, FINE_TUNE, f"{record.training_file}-prepared.jsonl"),
        ]
        if record.hyperparameters.data_preparation is None:
            copies = []

        def edit(record: FinetuningRecord) -> None:
            record.is_prepared = True
            record.result_files = [file.id for file in files if file.purpose == FINE_TUNE_RESULTS]
            record.prepared_file = next((file.id for file in files if file.purpose == FINE_TUNE), None)
            record.enter(FinetuningStatus.QUEUED, journal.now_s)

        def insert_all(connection: Connection) -> None:
            for file in files:
                file_table.insert(connection, file)

        with new_names(env, len(copies)) as names:
            try:
                for name, (path, purpose, filename) in zip(names, copies, strict=True):
                    size = await store_copy(env, name, path)
                    if isinstance(size, StorageFull):  # the trainer has its input
                        events.append(journal.event(f"{filename} is not stored: {size}", level="warn"))
                        continue
                    origin = record.training_file
                    files.append(File(name, record.owner, purpose, filename, size, int(journal.now_s), None, origin))
                events.append(journal.event("Files validated, moving job to queued state"))
                await journal.change(edit, events, status=self.status, beside=insert_all)
            finally:
                await remove_unknown(env, journal, names)


def body_mailbox(folder: JobFolder, owner: str, env: JobEnvironment) -> Mailbox[BodyQuestion]:
    """Return a mailbox for the requests of a preparation to served models. owner: the key that they count for."""

    async def answer(question: BodyQuestion) -> BodyAnswer:
        caller = env.find_caller(owner)
        if caller is None:
            return BodyAnswer("", 401, msgspec.json.encode({"error": {"message": NO_KEY}}))
        return await env.answer(caller, question.path, question.body, asyncio.sleep)

    return Mailbox(folder, BodyQuestion, answer)


def _write(folder: JobFolder, task: PrepareTask, info: EngineInfo | None) -> None:
    folder.path.mkdir(mode=0o700, parents=True, exist_ok=True)
    if info is not None:
        write_atomically(folder.tokenizer_info, msgspec.msgpack.encode(info.tokenizer))
        write_atomically(folder.context, msgspec.json.encode(info.max_model_len))
    write_atomically(task_file(folder), msgspec.json.encode(task))


def _reported_reason(folder: JobFolder) -> str | None:
    """Return the failure reason that the last process logged; None if it logged none."""
    last = next((line for line in reversed(read_log(folder.lock).splitlines()) if line.strip()), "")
    return last.removeprefix(REASON_PREFIX) if last.startswith(REASON_PREFIX) else None
