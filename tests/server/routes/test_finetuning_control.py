"""Fine-tuning jobs are canceled, paused and resumed, and have limits and owners, as the official client sees it."""

from pathlib import Path

import openai
import pytest

from server.schemas.finetuning_answers import FinetuningStatus
from tests.helpers.finetuning import create, finetuning_served, official
from tests.helpers.keys import entry, secret, write_keys

pytestmark = pytest.mark.fast


async def test_a_job_is_paused_resumed_and_canceled_and_each_may_be_repeated(tmp_path: Path) -> None:
    async with finetuning_served(tmp_path) as (client, runner, _):
        jobs = client.fine_tuning.jobs
        job = await create(client)
        runner.woken.clear()
        assert (await jobs.resume(job.id)).status == "validating_files"
        assert (await jobs.pause(job.id)).status == "paused"
        assert (await jobs.pause(job.id)).status == "paused"
        assert (await jobs.resume(job.id)).status == "validating_files"
        await runner.change(job.id, lambda record: setattr(record, "is_prepared", True))
        await jobs.pause(job.id)
        assert (await jobs.resume(job.id)).status == "queued"
        canceled = await jobs.cancel(job.id)
        assert canceled.status == "cancelled"
        assert canceled.finished_at is not None
        assert (await jobs.cancel(job.id)) == canceled
        assert runner.woken == [job.id] * 5
        for verb in (jobs.pause, jobs.resume):
            with pytest.raises(openai.BadRequestError, match="a job with status 'cancelled'"):
                await verb(job.id)
        events = [each.message async for each in jobs.list_events(job.id)]
        assert events[:5] == [
            "Fine-tuning job cancelled",
            "Fine-tuning job waits for its turn to continue",
            "Fine-tuning job paused",
            "Fine-tuning job waits for its turn to continue",
            "Fine-tuning job paused",
        ]


async def test_a_job_that_has_succeeded_is_not_canceled(tmp_path: Path) -> None:
    async with finetuning_served(tmp_path) as (client, runner, _):
        job = await create(client)
        await runner.change(job.id, lambda record: record.enter(FinetuningStatus.SUCCEEDED, 1))
        with pytest.raises(openai.BadRequestError, match="Cannot cancel a job with status 'succeeded'"):
            await client.fine_tuning.jobs.cancel(job.id)


async def test_files_of_a_job_stay_until_it_has_ended(tmp_path: Path) -> None:
    async with finetuning_served(tmp_path) as (client, _, _):
        job = await create(client)
        with pytest.raises(openai.BadRequestError, match="the fine-tuning job ftjob-"):
            await client.files.delete(job.training_file)
        await client.fine_tuning.jobs.cancel(job.id)
        assert (await client.files.delete(job.training_file)).deleted


async def test_a_job_is_its_keys_alone(tmp_path: Path) -> None:
    keys = write_keys(tmp_path / "keys.json", entry("ann"), entry("bob"), entry("eve", models=["other"]))
    async with finetuning_served(tmp_path / "data", key=secret("ann"), api_keys_file=keys) as (ann, runner, app):
        job = await create(ann)
        async with official(app, secret("bob"), runner) as bob, official(app, secret("eve"), runner) as eve:
            jobs = bob.fine_tuning.jobs
            assert (await jobs.list()).data == []
            for call in (jobs.retrieve, jobs.cancel, jobs.pause, jobs.resume, jobs.list_events, jobs.checkpoints.list):
                with pytest.raises(openai.NotFoundError, match="Could not find fine tune"):
                    await call(job.id)
            with pytest.raises(openai.BadRequestError, match="there is no such file of this key"):
                await create(bob, training_file=job.training_file)
            with pytest.raises(openai.BadRequestError, match="not served here"):
                await create(eve)
        assert (await ann.fine_tuning.jobs.retrieve(job.id)).status == "validating_files"


async def test_the_number_of_unfinished_jobs_is_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.routes.finetuning._MAX_ACTIVE", 2)
    async with finetuning_served(tmp_path) as (client, _, _):
        made = [await create(client) for _ in range(2)]
        with pytest.raises(openai.BadRequestError, match="2 jobs have not ended"):
            await create(client)
        await client.fine_tuning.jobs.cancel(made[0].id)
        await create(client)
