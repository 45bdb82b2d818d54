"""A job's end: its adapter is served and its results are a file, or, if a client stops it meanwhile, neither."""

import errno

import pytest
from fastapi import FastAPI

from server.errors import StorageFailed
from server.schemas.finetuning_answers import FinetuningStatus
from tests.helpers.deadline import until
from tests.helpers.fake_trainer import FakeChildren, add_job, ask, finetuning_runs, stored, until_status

pytestmark = [pytest.mark.fast, pytest.mark.usefixtures("in_no_time")]


def _served(app: FastAPI) -> list[str]:
    return [each.name for each in app.state.context.models.adapters]


@pytest.mark.parametrize("status", [FinetuningStatus.CANCELLED, FinetuningStatus.PAUSED])
async def test_a_job_that_is_stopped_while_its_result_is_stored_leaves_none(
    app: FastAPI, monkeypatch: pytest.MonkeyPatch, status: FinetuningStatus
) -> None:
    disk = app.state.context.files.disk
    tried: list[str] = []

    def fails(name: str) -> None:
        tried.append(name)
        raise OSError(errno.EIO, "the disk is broken")

    async with finetuning_runs(app, FakeChildren()) as jobs:
        job = await add_job(app, 1)
        with monkeypatch.context() as patch:
            patch.setattr(disk, "sync", fails)
            await until(lambda: tried)
            assert job.name in _served(app)
            await ask(app, job.id, status)
            await until(lambda: jobs.num_works == 0)
        assert _served(app) == [f"{job.name}:ckpt-step-3", f"{job.name}:ckpt-step-6"]
        assert disk.names() == [job.training_file]
        assert (await stored(app, job.id)).result_files == []

        if status is FinetuningStatus.PAUSED:
            await ask(app, job.id, FinetuningStatus.QUEUED)
            record = await until_status(app, job.id, FinetuningStatus.SUCCEEDED)
            assert job.name in _served(app)
            assert set(disk.names()) == {job.training_file, *record.result_files}


async def test_an_epoch_s_adapter_is_not_served_if_the_job_is_stopped_while_it_is_published(
    app: FastAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    files, journals = app.state.context.files, []
    run = files.database.run

    async def fails(work: object, *, is_durable: bool = False) -> object:
        if _served(app) and is_durable:  # the epoch's end
            journals.append(work)
            raise StorageFailed("the disk is broken")
        return await run(work, is_durable=is_durable)

    async with finetuning_runs(app, FakeChildren()) as jobs:
        job = await add_job(app, 1)
        with monkeypatch.context() as patch:
            patch.setattr(files.database, "run", fails)
            await until(lambda: journals)
            assert _served(app)[0] == f"{job.name}:ckpt-step-3"  # and of a slow machine perhaps the next one
            await ask(app, job.id, FinetuningStatus.CANCELLED)
            await until(lambda: jobs.num_works == 0)
    assert _served(app) == []
    assert (await stored(app, job.id)).checkpoints == []
