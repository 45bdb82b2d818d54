"""Questions of a trainer, and the answers of the server's models."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from engine.command_io.finetuning.graders.definitions import ScoreSampling
from engine.command_io.finetuning.graders.faults import FaultKind
from engine.command_io.finetuning.graders.grading import ScoreAnswer, ScoreQuestion
from engine.command_io.finetuning.job import JobFolder
from engine.command_io.finetuning.mailbox import asker
from engine.errors import EngineStopped
from server.finetuning.jobs.training import grader_mailbox
from server.jobs.answers import BodyAnswer
from server.jobs.environment import AnswerBody, Sleep, new_environment
from server.jobs.mailbox import Mailbox
from server.keys.caller import ANYBODY, Caller
from tests.helpers.deadline import DEADLINE_S
from tests.helpers.fake_client import FakeClient, make_app, says
from tests.helpers.fake_trainer import no_answer

pytestmark = pytest.mark.fast

Requests = list[tuple[str, str, dict[str, Any]]]


def _questions(*texts: str) -> list[ScoreQuestion]:
    return [ScoreQuestion("tiny", [{"role": "user", "content": text}], 0, 9, ScoreSampling()) for text in texts]


def _mailbox(folder: JobFolder, answer: AnswerBody, owner: str = ANYBODY.owner) -> Mailbox[ScoreQuestion]:
    return grader_mailbox(folder, owner, new_environment(make_app(FakeClient(says(""))).state.context, answer))


def _says(requests: Requests) -> AnswerBody:
    async def answer(caller: Caller, endpoint: str, body: dict[str, Any], _sleep: Sleep) -> BodyAnswer:
        requests.append((caller.owner, endpoint, body))
        text = body["messages"][0]["content"]
        usage = {"prompt_tokens": 1, "completion_tokens": 1}
        answer = {"choices": [{"message": {"content": text}}], "usage": usage}
        return BodyAnswer("req_1", 200, json.dumps(answer).encode())

    return answer


async def _answers(mailbox: Mailbox[ScoreQuestion], folder: JobFolder, *texts: str) -> list[ScoreAnswer]:
    """What a trainer in another thread gets, while this one looks."""
    trainer = asyncio.create_task(asyncio.to_thread(asker(folder), _questions(*texts)))
    async with asyncio.timeout(DEADLINE_S):
        while not trainer.done():
            await mailbox.look()
            await asyncio.sleep(0.001)
    return list(await trainer)


async def test_all_questions_of_a_step_are_answered_for_the_owner(tmp_path: Path) -> None:
    requests: Requests = []
    folder = JobFolder(tmp_path)
    mailbox = _mailbox(folder, _says(requests))
    await mailbox.look()
    assert [each.text for each in await _answers(mailbox, folder, "1", "2", "3")] == ["1", "2", "3"]
    assert [each.text for each in await _answers(mailbox, folder, "4")] == ["4"]
    assert [(owner, endpoint) for owner, endpoint, _ in requests] == [(ANYBODY.owner, "/v1/chat/completions")] * 4
    await mailbox.close()


async def test_a_key_that_is_gone_is_a_fault_of_each_answer(tmp_path: Path) -> None:
    folder = JobFolder(tmp_path)
    (found,) = await _answers(_mailbox(folder, no_answer, owner="gone"), folder, "1")
    assert found.fault is not None
    assert found.fault.kind is FaultKind.MODEL_SERVER
    assert "key" in found.fault.message


async def test_a_server_that_stops_answers_nothing(tmp_path: Path) -> None:
    async def stopped(_caller: Caller, _endpoint: str, _body: dict[str, Any], _sleep: Sleep) -> BodyAnswer:
        raise EngineStopped("the server is being stopped")

    folder = JobFolder(tmp_path)
    looks: list[int] = []
    mailbox = _mailbox(folder, stopped)

    class _Ended(Exception):
        pass

    def look(_: float) -> None:
        looks.append(1)
        if len(looks) > 3:
            raise _Ended

    trainer = asyncio.create_task(asyncio.to_thread(asker(folder, sleep=look), _questions("1")))
    with pytest.raises(_Ended):
        await trainer
    await mailbox.look()
    await asyncio.sleep(0)
    await mailbox.look()
    assert not folder.answers.exists()


async def test_a_process_that_ends_leaves_no_questions_that_are_answered(tmp_path: Path) -> None:
    has_started = asyncio.Event()

    async def forever(_caller: Caller, _endpoint: str, _body: dict[str, Any], _sleep: Sleep) -> BodyAnswer:
        has_started.set()
        await asyncio.Event().wait()
        raise AssertionError

    folder = JobFolder(tmp_path)

    class _Ended(Exception):
        pass

    def look(_: float) -> None:
        raise _Ended

    with pytest.raises(_Ended):
        await asyncio.to_thread(asker(folder, sleep=look), _questions("1"))
    mailbox = _mailbox(folder, forever)
    async with asyncio.timeout(DEADLINE_S):
        await mailbox.look()
        await has_started.wait()
        await mailbox.close()
    assert not folder.answers.exists()
