"""Fine-tuning jobs in tests: processes that only pretend, a runner beside an application, and jobs in its store."""

import asyncio
import contextlib
import hashlib
import json
import time
from collections import deque
from collections.abc import AsyncIterator, Collection, Sequence
from pathlib import Path
from typing import Any

import msgspec
from fastapi import FastAPI

from engine.child_processes.background import IDLE, LOW
from engine.command_io.finetuning.events import JobEventLog
from engine.command_io.finetuning.graders.grading import ScoreQuestion
from engine.command_io.finetuning.job import JobFolder
from engine.command_io.finetuning.mailbox import BodyQuestion, ask_mail, asker
from engine.protocol import AdapterInfo
from server.finetuning.faults import FileFault
from server.finetuning.jobs.kind import FinetuningJobs
from server.finetuning.jobs.record import FinetuningRecord
from server.finetuning.jobs.table import FINETUNING_JOBS
from server.finetuning.preparation import PreparationReport
from server.finetuning.prepare_process import Faulty, Made, Outcome, PrepareTask, task_file
from server.jobs.answers import BodyAnswer
from server.jobs.child import ProcessorUse, log_of
from server.jobs.environment import AnswerBody, Sleep
from server.jobs.runner import JobRunner
from server.keys.caller import Caller
from server.schemas.finetuning_answers import FinetuningStatus
from tests.helpers.deadline import DEADLINE_S
from tests.helpers.fake_client import MODEL, FakeClient, says
from tests.helpers.training_plan import PLAN

PREPARE, PLAN_JOB, TRAIN = "server.finetuning.prepare_process", "engine.finetuning.plan", "engine.finetuning"
KILLED = -9

SAMPLE = "Sample 1: the sea--order, --replay and /a/b/c"
DIFFERENT = 'Line 7: the answer is "--replay" and not "/a/b/c"'

NUM_STEPS, STEPS_PER_EPOCH = 6, 3


class AnyAdapter(dict[str, AdapterInfo | Exception]):
    """Of a FakeClient: every folder with a configuration has an adapter."""

    def get(self, name: str, default: Any = None) -> Any:
        digest = hashlib.blake2b(name.encode(), digest_size=16).digest()
        return super().get(name, AdapterInfo(digest=digest, rank=8, num_bytes=1000)) or default


def trained_client() -> FakeClient:
    client = FakeClient(says("yes"))
    client.adapters = AnyAdapter()
    return client


class FakeChild:
    """A Child that works on the event loop, a little at a time, unless it is stopped. `deaths`: exit statuses that
    those that train end with, one each, after a step."""

    def __init__(self, module: str, folder: JobFolder, children: "FakeChildren") -> None:
        self.module = module
        self.folder = folder
        self.is_stopped = False
        self._children = children
        self._going = asyncio.Event()
        self._going.set()
        self._exit: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._output = b""
        self._saves = False
        self._task = asyncio.create_task(self._live())

    @property
    def is_alive(self) -> bool:
        return not self._exit.done()

    async def wait(self) -> int:
        return await asyncio.shield(self._exit)

    async def output(self) -> bytes:
        await asyncio.shield(self._exit)
        return self._output

    def suspend(self) -> None:
        self.is_stopped = True
        self._going.clear()

    def resume(self) -> None:
        self.is_stopped = False
        self._going.set()

    def kill(self) -> None:
        self._end(KILLED)

    def processor_use(self) -> ProcessorUse | None:
        return self._children.processor_use

    def raise_priority(self) -> None:
        """It has no priority."""

    async def end(self) -> None:
        self._saves = True
        self.resume()
        await asyncio.sleep(0)
        self._end(143)

    def _end(self, code: int) -> None:
        if not self._exit.done():
            self._exit.set_result(code)
            self._children.alive.discard(self)
        self._task.cancel()

    async def _live(self) -> None:
        work = {TRAIN: self._train, PLAN_JOB: self._plan}.get(self.module, self._prepare)
        code = await work()
        if not self._exit.done():
            self._exit.set_result(code)
            self._children.alive.discard(self)

    async def _tick(self) -> None:
        await asyncio.sleep(self._children.pause_s)
        while self.module in self._children.held:
            await asyncio.sleep(0.001)
        await self._going.wait()

    async def _prepare(self) -> int:
        task = msgspec.json.decode(task_file(self.folder).read_bytes(), type=PrepareTask)
        await self._tick()
        if self._children.preparing_ends:
            code, text = self._children.preparing_ends.popleft()
            log_of(self.folder.lock).write_text(text)
            return code
        if self._children.bodies:
            mail = (self.folder, self._children.bodies, BodyAnswer)
            self._children.answers += await asyncio.to_thread(ask_mail, *mail, sleep=self._poll)
        lines = Path(task.train).read_bytes().splitlines()
        bad = [FileFault("it is bad", number) for number, line in enumerate(lines, 1) if b"bad" in line]
        outcome: Outcome = Made(PreparationReport(num_lines=len(lines), num_items=len(lines), num_tokens=100))
        if bad:
            outcome = Faulty(bad, is_validation=False)
        else:
            if task.order.hyperparameters.data_preparation is not None:
                self.folder.prepared.write_bytes(lines[0])
                self.folder.data_report.write_text("{}")
            self.folder.job.write_bytes(msgspec.json.encode(task.order))
        self._output = msgspec.json.encode(outcome)
        return 0

    async def _plan(self) -> int:
        await self._tick()
        if self._children.plan_ends:
            code, text = self._children.plan_ends.popleft()
            log_of(self.folder.lock).write_text(text)
            return code
        self._output = msgspec.json.encode(PLAN)
        return 0

    async def _train(self) -> int:
        """The adapter is a chain over all steps: one that was left out, or done twice, makes another one."""
        out = self.folder.out
        log = JobEventLog(self.folder.events)
        chain = json.loads(self.folder.state.read_bytes()) if self.folder.state.exists() else []
        if not chain:
            log.add("begun", n_epochs=2, batch_size=4, learning_rate=0.1, lora_rank=8, beta=None, total_steps=NUM_STEPS)
        for step in range(len(chain) + 1, NUM_STEPS + 1):
            await self._tick()
            if self._children.questions:
                answers = await self._asked(self._children.questions)
                log.add(f"Answers {', '.join(answers)}")
            chain.append(hashlib.blake2b(f"{chain}{step}".encode(), digest_size=4).hexdigest())
            log.add(f"Step {step}", kind="metrics", step=step, total_steps=NUM_STEPS, tokens=10)
            if step % STEPS_PER_EPOCH == 0:
                _write_adapter(out / "checkpoints" / f"step-{step}", chain)
                log.add("Epoch", checkpoint="/secret/path", step=step, epoch=step // STEPS_PER_EPOCH, train_loss=0.5)
                log.add(SAMPLE, sample=0, text=SAMPLE)
                self.folder.state.write_text(json.dumps(chain))
            if self._saves or self._children.saves_steps:
                self.folder.state.write_text(json.dumps(chain))
            if self._children.deaths:
                code = self._children.deaths.popleft()
                if code == 1:
                    log.add("give a smaller --max-length", level="error")
                return code
        self.folder.results.write_text(
            "step,train_loss\n" + "".join(f"{step},{each}\n" for step, each in enumerate(chain))
        )
        _write_adapter(out, chain)
        log.add(DIFFERENT, line=7, text="--replay", expected="/a/b/c")
        log.add("The adapter is complete", adapter="/secret/path", trained_tokens=10 * NUM_STEPS)
        return 0

    async def _asked(self, questions: Sequence[ScoreQuestion]) -> list[str]:
        """What the server's models say, or what is at fault."""

        answers = await asyncio.to_thread(asker(self.folder, sleep=self._poll), questions)
        return [each.text if each.fault is None else each.fault.message for each in answers]

    def _poll(self, seconds: float) -> None:
        time.sleep(min(seconds, 0.001))
        while self.is_stopped and self.is_alive:
            time.sleep(0.001)
        if not self.is_alive:
            raise SystemExit


def _write_adapter(folder: Path, chain: list[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_model.safetensors").write_text(json.dumps(chain))
    (folder / "adapter_config.json").write_text("{}")


def whole_adapter() -> list[str]:
    """What an uninterrupted job makes."""
    chain: list[str] = []
    for step in range(1, NUM_STEPS + 1):
        chain.append(hashlib.blake2b(f"{chain}{step}".encode(), digest_size=4).hexdigest())
    return chain


class FakeChildren:
    """Starts them. `most`: how many of a module were alive at once."""

    def __init__(self) -> None:
        self.alive: set[FakeChild] = set()
        self.started: list[FakeChild] = []
        self.most: dict[str, int] = {}
        self.deaths: deque[int] = deque()
        self.failures: deque[OSError] = deque()  # to start those that train
        self.preparing_ends: deque[tuple[int, str]] = deque()  # exit statuses of those that prepare, and their logs
        self.plan_ends: deque[tuple[int, str]] = deque()  # likewise of those that plan
        self.saves_steps = False  # and not only epochs
        self.pause_s = 0.0005  # of a child before each step
        self.questions: list[ScoreQuestion] = []  # that those that train ask in each step
        self.bodies: list[BodyQuestion] = []  # that those that prepare ask
        self.answers: list[BodyAnswer] = []  # to these
        self.held: set[str] = set()  # modules of those that do not get on
        self.processor_use: ProcessorUse | None = None

    async def start(self, module: str, arguments: list[str], lock: Path, priority: str) -> FakeChild:
        await asyncio.sleep(0)
        folder = JobFolder(Path(json.loads(arguments[0]) if module == PLAN_JOB else arguments[0]))
        assert folder.lock == lock
        assert priority == (IDLE if module == TRAIN else LOW)
        if module == TRAIN and self.failures:
            raise self.failures.popleft()
        child = FakeChild(module, folder, self)
        assert not any(each.folder == folder for each in self.alive), "two processes work on one job"
        self.alive.add(child)
        self.started.append(child)
        self.most[module] = max(self.most.get(module, 0), sum(each.module == module for each in self.alive))
        return child

    def of(self, job_id: str, module: str = TRAIN) -> FakeChild | None:
        """The one that works on the job now."""
        found = (each for each in self.alive if each.module == module and each.folder.path.parent.name == job_id)
        return next(found, None)


async def no_time(_seconds: float) -> None:
    await asyncio.sleep(0)


async def no_answer(_caller: Caller, _endpoint: str, _body: dict[str, Any], _sleep: Sleep) -> BodyAnswer:
    raise AssertionError("no model grades")


def finetuning_runner(app: FastAPI, children: FakeChildren, answer: AnswerBody = no_answer) -> JobRunner:
    """A runner of the application's fine-tuning jobs alone."""
    return JobRunner(app.state.context, [FinetuningJobs], answer, start=children.start, sleep=no_time)


@contextlib.asynccontextmanager
async def finetuning_runs(
    app: FastAPI, children: FakeChildren, answer: AnswerBody = no_answer
) -> AsyncIterator[JobRunner]:
    """Work on the application's jobs within the context."""
    runner = finetuning_runner(app, children, answer)
    await runner.prepare()
    running = asyncio.create_task(runner.run())
    try:
        yield runner
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def add_job(app: FastAPI, number: int, content: bytes = b"{}\n" * 10, **fields: Any) -> FinetuningRecord:
    """A job that was just made, with its file."""
    context = app.state.context
    async with context.files.upload() as upload:
        await upload.write(content)
        file = await upload.finish(owner="", purpose="fine-tune", filename="a.jsonl", expires_after_s=None)
    record = FinetuningRecord(
        **{
            "id": f"ftjob-{number}",
            "owner": "",
            "created_at": number,
            "model": MODEL,
            "base_model": MODEL,
            "training_file": file.id,
            "name": f"ft:tiny:headrace::{number}",
            **fields,
        }
    )
    await context.files.database.run(lambda connection: FINETUNING_JOBS.insert(connection, record))
    context.wake_job(record.id)
    return record


async def stored(app: FastAPI, job_id: str) -> FinetuningRecord:
    record = await app.state.context.files.database.run(lambda connection: FINETUNING_JOBS.find(connection, job_id))
    assert record is not None
    return record  # type: ignore[no-any-return]


ACTIVE = tuple(each for each in FinetuningStatus if not each.has_ended)


async def ask(
    app: FastAPI, job_id: str, status: FinetuningStatus, before: Collection[FinetuningStatus] = ACTIVE
) -> None:
    """What the route of a pause, a resumption or a cancellation does. before: statuses in which it may."""
    context = app.state.context

    def edit(record: FinetuningRecord) -> None:
        if record.status in before:
            record.enter(status, context.files.clock())

    await context.files.database.run(lambda connection: FINETUNING_JOBS.change(connection, job_id, edit))
    context.wake_job(job_id)


async def until_status(app: FastAPI, job_id: str, *statuses: FinetuningStatus) -> FinetuningRecord:
    """The job, once it has one of the statuses."""
    async with asyncio.timeout(DEADLINE_S):
        while (record := await stored(app, job_id)).status not in statuses:
            await asyncio.sleep(0.001)
    return record


async def events_of(app: FastAPI, job_id: str) -> list[str]:
    """Their messages, the oldest first."""
    found, _ = await app.state.context.files.database.run(
        lambda connection: FINETUNING_JOBS.events_page(connection, job_id, None, 1000)
    )
    return [each.event.message for each in reversed(found)]
