"""Whatever clients, crashes and restarts do in whatever order: each job has one end, and one process at a time."""

import asyncio
import itertools
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, multiple, rule

from server.config.storage import StorageConfig
from server.files.disk import FolderDisk
from server.files.store import Files
from server.finetuning.jobs.folders import out_folder
from server.schemas.finetuning_answers import FinetuningStatus
from server.store.database import memory_database
from tests.helpers.fake_client import make_app
from tests.helpers.fake_trainer import (
    NUM_STEPS,
    FakeChildren,
    add_job,
    ask,
    events_of,
    finetuning_runner,
    stored,
    trained_client,
    until_status,
    whole_adapter,
)
from tests.helpers.virtual_loop import VirtualLoop
from tests.server.finetuning.jobs.test_kind import ENDED, adapter_of

pytestmark = [pytest.mark.fast, pytest.mark.usefixtures("in_no_time")]

_BUSY = (FinetuningStatus.VALIDATING_FILES, FinetuningStatus.QUEUED, FinetuningStatus.RUNNING)
_numbers = itertools.count()
_made: list[FastAPI] = []  # one, which takes longer to make than all else


def _app() -> FastAPI:
    if not _made:
        _made.append(make_app(trained_client(), enable_lora=True, data_dir=tempfile.mkdtemp()))
    return _made[0]


class Jobs(RuleBasedStateMachine):
    jobs = Bundle("jobs")

    def __init__(self) -> None:
        super().__init__()
        self._loop = VirtualLoop()
        self._app = _app()
        context = self._app.state.context
        self._data_dir = Path(context.config.data_dir)
        self._data_dir.mkdir(exist_ok=True)
        context.files = Files(memory_database(), FolderDisk(self._data_dir / "files"), StorageConfig())
        self._engine = context.models.default.client
        self._engine.num_open = 0
        self._children = FakeChildren()
        self._ended: dict[str, FinetuningStatus] = {}
        self._ids: list[str] = []
        self._running: asyncio.Task[None] | None = None
        self._do(self._start())

    def _do(self, work: Any) -> Any:
        return self._loop.run_until_complete(work)

    async def _start(self) -> None:
        context = self._app.state.context
        for each in list(context.models.adapters):
            context.models.adapters.remove(each.name, context.models.default)
        runner = finetuning_runner(self._app, self._children)
        await runner.prepare()
        self._running = asyncio.create_task(runner.run())

    async def _stop(self) -> None:
        assert self._running is not None
        self._running.cancel()
        await asyncio.gather(self._running, return_exceptions=True)
        assert not self._children.alive

    # --- what clients do ----------------------------------------------------------------------------------------------

    @rule(target=jobs, is_bad=st.booleans(), is_certain=st.booleans())
    def create(self, is_bad: bool, is_certain: bool) -> Any:
        if len(self._ids) == 4:
            return multiple()
        is_bad = is_bad and not is_certain
        record = self._do(add_job(self._app, next(_numbers), b"bad\n" if is_bad else b"{}\n" * 10))
        self._ids.append(record.id)
        return record.id

    @rule(job=jobs)
    def pause(self, job: str) -> None:
        self._do(self._ask(job, _BUSY, FinetuningStatus.PAUSED))

    @rule(job=jobs)
    def cancel(self, job: str) -> None:
        self._do(self._ask(job, (*_BUSY, FinetuningStatus.PAUSED), FinetuningStatus.CANCELLED))

    @rule(job=jobs)
    def resume(self, job: str) -> None:
        self._do(self._resume(job))

    async def _resume(self, job: str) -> None:
        is_prepared = (await stored(self._app, job)).is_prepared
        status = FinetuningStatus.QUEUED if is_prepared else FinetuningStatus.VALIDATING_FILES
        await self._ask(job, (FinetuningStatus.PAUSED,), status)

    async def _ask(self, job: str, before: tuple[FinetuningStatus, ...], status: FinetuningStatus) -> None:
        await ask(self._app, job, status, before)

    @rule(is_busy=st.booleans())
    def chat(self, is_busy: bool) -> None:
        self._engine.num_open = int(is_busy)
        if is_busy:
            self._app.state.context.models.arrivals.notify()
            assert all(child.is_stopped for child in self._children.alive)

    # --- what happens -------------------------------------------------------------------------------------------------

    @rule(num_ticks=st.integers(1, 30))
    def wait(self, num_ticks: int) -> None:
        async def ticks() -> None:
            for _ in range(num_ticks):
                await asyncio.sleep(0.0005)

        self._do(ticks())

    @rule()
    def children_die(self) -> None:
        async def kill() -> None:
            for child in list(self._children.alive):
                child.kill()

        self._do(kill())

    @rule(is_killed=st.booleans())
    def restart(self, is_killed: bool) -> None:
        async def again() -> None:
            if is_killed:
                for child in list(self._children.alive):
                    child.kill()
            await self._stop()
            await self._start()

        self._do(again())

    # --- what must hold -----------------------------------------------------------------------------------------------

    @invariant()
    def one_process_trains(self) -> None:
        assert all(count == 1 for count in self._children.most.values())

    @invariant()
    def ends_are_for_good(self) -> None:
        for job in self._ids:
            status = self._do(stored(self._app, job)).status
            if job in self._ended:
                assert status is self._ended[job]
            if status.has_ended:
                self._ended[job] = status

    def teardown(self) -> None:
        try:
            self._do(self._finish())
        finally:
            self._do(self._stop())
        try:
            self._do(self._check_what_is_left())
        finally:
            self._app.state.context.files.database.close()
            self._loop.close()
            shutil.rmtree(self._data_dir, ignore_errors=True)

    async def _check_what_is_left(self) -> None:
        """Every name that is served is a job's, and every file on the disk has a row."""
        context = self._app.state.context
        records = [await stored(self._app, job) for job in self._ids]
        names = {record.checkpoint_name(each.step) for record in records for each in record.checkpoints}
        names |= {record.name for record in records if record.has_adapter}
        assert {each.name for each in context.models.adapters} == names
        files = {record.training_file for record in records}.union(*(record.result_files for record in records))
        assert set(context.files.disk.names()) == files

    async def _finish(self) -> None:
        self._engine.num_open = 0
        for job in self._ids:
            await self._resume(job)
        for job in self._ids:
            record = await until_status(self._app, job, *ENDED)
            assert self._ended.get(job, record.status) is record.status
            if record.status is FinetuningStatus.SUCCEEDED:
                assert adapter_of(self._app, job) == whole_adapter()
                steps = [each for each in await events_of(self._app, job) if each.startswith("Step ")]
                assert steps == [f"Step {number}" for number in range(1, NUM_STEPS + 1)]
                assert self._app.state.context.models.adapters.get(record.name) is not None
                assert len(record.result_files) == 1
            else:
                assert self._app.state.context.models.adapters.get(record.name) is None
            assert (out_folder(str(self._data_dir), job) / "adapter_config.json").exists() or not record.has_adapter


Jobs.TestCase.settings = settings(max_examples=30, stateful_step_count=25, deadline=None)
test_jobs = Jobs.TestCase
