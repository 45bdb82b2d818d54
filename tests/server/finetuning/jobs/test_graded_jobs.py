"""Jobs whose trainer asks models that grade: the server's own answer, for the owner, behind its clients."""

from functools import partial
from pathlib import Path

import pytest

from engine.command_io.finetuning.graders.definitions import ScoreSampling
from engine.command_io.finetuning.graders.grading import ScoreQuestion
from engine.command_io.finetuning.job import TrainingMethod
from engine.protocol import FinishReason, ServiceClass
from server.batches.running import run_body
from server.schemas.finetuning_answers import FinetuningStatus
from tests.helpers.fake_client import MODEL, FakeClient, make_app, says
from tests.helpers.fake_trainer import (
    NUM_STEPS,
    AnyAdapter,
    FakeChildren,
    add_job,
    events_of,
    finetuning_runs,
    until_status,
    whole_adapter,
)
from tests.server.finetuning.jobs.test_kind import ENDED, adapter_of

pytestmark = [pytest.mark.fast, pytest.mark.usefixtures("in_no_time")]

GRADER = {"type": "string_check", "operation": "eq", "input": "{{sample.output_text}}", "reference": "x"}


def _question(text: str) -> ScoreQuestion:
    return ScoreQuestion(MODEL, [{"role": "user", "content": text}], 0, 9, ScoreSampling())


async def test_the_questions_of_every_step_are_answered(tmp_path: Path) -> None:
    engine = FakeClient(says("7", finish=FinishReason.STOP))
    engine.adapters = AnyAdapter()
    app = make_app(engine, enable_lora=True, data_dir=str(tmp_path))
    children = FakeChildren()
    children.questions = [_question("How good?"), _question("How bad?")]
    async with finetuning_runs(app, children, partial(run_body, app.state.context)):
        job = await add_job(app, 1, method=TrainingMethod.REINFORCEMENT, grader=GRADER)
        record = await until_status(app, job.id, *ENDED)
        assert record.status is FinetuningStatus.SUCCEEDED, record.error
    assert adapter_of(app, job.id) == whole_adapter()
    assert (await events_of(app, job.id)).count("Answers 7, 7") == NUM_STEPS
    assert len(engine.requests) == 2 * NUM_STEPS
    assert {request.service_class for request in engine.requests} == {ServiceClass.BATCH}


async def test_a_key_that_is_gone_answers_nothing(tmp_path: Path) -> None:
    engine = FakeClient(says("7"))
    engine.adapters = AnyAdapter()
    app = make_app(engine, enable_lora=True, data_dir=str(tmp_path), api_key=["secret"])
    children = FakeChildren()
    children.questions = [_question("How good?")]
    async with finetuning_runs(app, children, partial(run_body, app.state.context)):
        job = await add_job(app, 1, method=TrainingMethod.REINFORCEMENT, grader=GRADER)
        await until_status(app, job.id, *ENDED)
    reason = "the key that made the job is not accepted any more; create the job again with another key"
    assert f"Answers {reason}" in await events_of(app, job.id)
    assert engine.requests == []
