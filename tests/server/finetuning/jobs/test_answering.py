"""Questions of a trainer, and the answers of the server's models."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from engine.command_io.finetuning.grader_mailbox import asker
from engine.command_io.finetuning.graders.definitions import ScoreSampling
from engine.command_io.finetuning.graders.faults import FaultKind
from engine.command_io.finetuning.graders.grading import ScoreAnswer, ScoreQuestion
from engine.command_io.finetuning.job import JobFolder
from engine.errors import EngineStopped
from server.finetuning.jobs.answering import Answering
from tests.helpers.deadline import DEADLINE_S

pytestmark = pytest.mark.fast

Asked = list[tuple[str, str, dict[str, Any]]]


def _questions(*texts: str) -> list[ScoreQuestion]:
    return [ScoreQuestion("tiny", [{"role": "user", "content": text}], 0, 9, ScoreSampling()) for text in texts]


def _says(asked: Asked) -> Callable[..., Awaitable[tuple[int, bytes]]]:
    async def answer(owner: str, endpoint: str, body: dict[str, Any]) -> tuple[int, bytes]:
        asked.append((owner, endpoint, body))
        text = body["messages"][0]["content"]
        usage = {"prompt_tokens": 1, "completion_tokens": 1}
        return 200, json.dumps({"choices": [{"message": {"content": text}}], "usage": usage}).encode()

    return answer


async def _asked(answering: Answering, folder: JobFolder, *texts: str) -> list[ScoreAnswer]:
    """What a trainer in another thread gets, while this one looks."""
    trainer = asyncio.create_task(asyncio.to_thread(asker(folder), _questions(*texts)))
    async with asyncio.timeout(DEADLINE_S):
        while not trainer.done():
            await answering.look()
            await asyncio.sleep(0.001)
    return list(await trainer)


async def test_all_questions_of_a_step_are_answered_for_the_owner(tmp_path: Path) -> None:
    asked: Asked = []
    folder = JobFolder(tmp_path)
    answering = Answering(folder, "me", _says(asked))
    await answering.look()
    assert [each.text for each in await _asked(answering, folder, "1", "2", "3")] == ["1", "2", "3"]
    assert [each.text for each in await _asked(answering, folder, "4")] == ["4"]
    assert [(owner, endpoint) for owner, endpoint, _ in asked] == [("me", "/v1/chat/completions")] * 4
    await answering.end()


async def test_a_key_that_is_gone_is_a_fault_of_each_answer(tmp_path: Path) -> None:
    async def nobody(_owner: str, _endpoint: str, _body: dict[str, Any]) -> None:
        return None

    folder = JobFolder(tmp_path)
    (found,) = await _asked(Answering(folder, "me", nobody), folder, "1")
    assert found.fault is not None
    assert found.fault.kind is FaultKind.MODEL_SERVER
    assert "key" in found.fault.message


async def test_a_server_that_stops_answers_nothing(tmp_path: Path) -> None:
    async def stopped(_owner: str, _endpoint: str, _body: dict[str, Any]) -> tuple[int, bytes]:
        raise EngineStopped("the server is being stopped")

    folder = JobFolder(tmp_path)
    looks: list[int] = []
    answering = Answering(folder, "me", stopped)

    class _Ended(Exception):
        pass

    def look(_: float) -> None:
        looks.append(1)
        if len(looks) > 3:
            raise _Ended

    trainer = asyncio.create_task(asyncio.to_thread(asker(folder, sleep=look), _questions("1")))
    with pytest.raises(_Ended):
        await trainer
    await answering.look()
    await asyncio.sleep(0)
    await answering.look()
    assert not folder.answers.exists()


async def test_a_process_that_ends_leaves_no_questions_that_are_answered(tmp_path: Path) -> None:
    begun = asyncio.Event()

    async def forever(_owner: str, _endpoint: str, _body: dict[str, Any]) -> tuple[int, bytes]:
        begun.set()
        await asyncio.Event().wait()
        raise AssertionError

    folder = JobFolder(tmp_path)

    class _Ended(Exception):
        pass

    def look(_: float) -> None:
        raise _Ended

    with pytest.raises(_Ended):
        await asyncio.to_thread(asker(folder, sleep=look), _questions("1"))
    answering = Answering(folder, "me", forever)
    async with asyncio.timeout(DEADLINE_S):
        await answering.look()
        await begun.wait()
        await answering.end()
    assert not folder.answers.exists()
