"""What the official client is told of fine-tuning jobs: as lists, and their events and checkpoints."""

from pathlib import Path

import openai
import pytest

from engine.command_io.finetuning.events import JobEvent
from server.finetuning.jobs.record import FinetuningCheckpoint, FinetuningRecord, Resolved
from server.schemas.finetuning_answers import FinetuningError, FinetuningStatus
from tests.helpers.finetuning import create, finetuning_served

pytestmark = pytest.mark.fast


async def test_a_job_shows_what_was_chosen_and_made(tmp_path: Path) -> None:
    async with finetuning_served(tmp_path) as (client, runner, _):
        job = await create(client, method={"type": "dpo", "dpo": {"hyperparameters": {"beta": 0.2}}})
        assert job.method.dpo.hyperparameters.beta == 0.2
        assert job.method.dpo.hyperparameters.n_epochs == "auto"

        def work(record: FinetuningRecord) -> None:
            record.enter(FinetuningStatus.RUNNING, 100)
            record.resolved = Resolved(
                n_epochs=2, batch_size=4, learning_rate=2e-4, lora_rank=8, total_steps=20, beta=0.2
            )
            record.estimated_finish = 500

        await runner.change(job.id, work)
        job = await client.fine_tuning.jobs.retrieve(job.id)
        assert (job.status, job.estimated_finish, job.fine_tuned_model) == ("running", 500, None)
        assert (job.hyperparameters.n_epochs, job.hyperparameters.learning_rate_multiplier) == (2, 1.0)
        chosen = job.method.dpo.hyperparameters
        assert (chosen.n_epochs, chosen.batch_size, chosen.beta, chosen.lora_rank) == (2, 4, 0.2, 8)

        def end(record: FinetuningRecord) -> None:
            record.enter(FinetuningStatus.SUCCEEDED, 600)
            record.trained_tokens, record.result_files = 4242, ["file-results"]

        record = await runner.change(job.id, end)
        job = await client.fine_tuning.jobs.retrieve(job.id)
        assert (job.status, job.finished_at, job.estimated_finish) == ("succeeded", 600, None)
        assert (job.fine_tuned_model, job.trained_tokens, job.result_files) == (record.name, 4242, ["file-results"])


async def test_a_failure_is_told(tmp_path: Path) -> None:
    async with finetuning_served(tmp_path) as (client, runner, _):
        job = await create(client)

        def fail(record: FinetuningRecord) -> None:
            record.enter(FinetuningStatus.FAILED, 9)
            record.error = FinetuningError("invalid_training_file", "line 3: no", "training_file")

        await runner.change(job.id, fail)
        job = await client.fine_tuning.jobs.retrieve(job.id)
        assert (job.status, job.error.code, job.error.message, job.error.param) == (
            "failed",
            "invalid_training_file",
            "line 3: no",
            "training_file",
        )


async def test_jobs_are_listed_by_page_and_metadata(tmp_path: Path) -> None:
    async with finetuning_served(tmp_path) as (client, _, _):
        made = [(await create(client, metadata={"n": str(n % 2)})).id for n in range(4)]
        made.append((await create(client)).id)
        jobs = client.fine_tuning.jobs
        first = await jobs.list(limit=2)
        assert ([each.id for each in first.data], first.has_more) == (made[:2:-1], True)
        assert [each.id async for each in jobs.list(limit=2)] == made[::-1]
        assert [each.id async for each in jobs.list(limit=1, metadata={"n": "1"})] == [made[3], made[1]]
        none = await jobs.list(extra_query={"metadata": "null"})
        assert [each.id for each in none.data] == [made[4]]
        for wrong in (
            {"after": "ftjob-none"},
            {"limit": "0"},
            {"limit": "1001"},
            {"metadata": "x"},
            {"metadata[a": "b"},
            {f"metadata[{number}]": "b" for number in range(17)},
        ):
            with pytest.raises(openai.BadRequestError):
                await jobs.list(extra_query=wrong)


async def test_events_and_checkpoints_are_listed_by_page(tmp_path: Path) -> None:
    async with finetuning_served(tmp_path) as (client, runner, _):
        job, other = await create(client), await create(client)
        steps = [
            JobEvent(
                created_at=10.7 + step,
                message=f"Step {step}",
                kind="metrics",
                data={"step": step, "train_loss": 1 / step, "checkpoint": "/private/path"},
            )
            for step in range(1, 6)
        ]
        await runner.tell(job.id, *steps)
        events = [each async for each in client.fine_tuning.jobs.list_events(job.id, limit=2)]
        assert [each.message for each in events[:-1]] == [f"Step {step}" for step in range(5, 0, -1)]
        assert (events[0].type, events[0].created_at, events[0].data) == ("metrics", 15, {"step": 5, "train_loss": 0.2})
        assert len({each.id for each in events}) == 6
        with pytest.raises(openai.BadRequestError, match="no such event"):
            await client.fine_tuning.jobs.list_events(other.id, after=events[0].id)

        def add(record: FinetuningRecord) -> None:
            record.checkpoints = [
                FinetuningCheckpoint(
                    step=step,
                    created_at=step,
                    metrics={"epoch": step / 8, "step": step, "train_loss": 0.5, "full_valid_loss": 0.25},
                )
                for step in (8, 16, 24)
            ]

        record = await runner.change(job.id, add)
        checkpoints = [each async for each in client.fine_tuning.jobs.checkpoints.list(job.id, limit=1)]
        assert [each.step_number for each in checkpoints] == [24, 16, 8]
        assert checkpoints[0].fine_tuned_model_checkpoint == f"{record.name}:ckpt-step-24"
        assert checkpoints[0].fine_tuning_job_id == job.id
        metrics = checkpoints[0].metrics
        assert (metrics.step, metrics.train_loss, metrics.full_valid_loss, metrics.valid_loss) == (24, 0.5, 0.25, 0.25)
        with pytest.raises(openai.BadRequestError, match="no such checkpoint"):
            await client.fine_tuning.jobs.checkpoints.list(job.id, after="ftckpt_none")
