"""Answers of a synthesis: from the journal first, then from an engine or a teacher."""

import asyncio
import json
from collections.abc import Sequence
from contextlib import aclosing, closing
from pathlib import Path
from typing import Any

import pytest

from engine.errors import StartupError
from engine.protocol import ServiceClass
from server.commands.synthesize.answering import (
    EngineAnswerer,
    JournaledAnswers,
    SharedAnswerer,
    Store,
    TeacherAnswerer,
    TokensSpent,
)
from server.commands.synthesize.journal import AnswerJournal
from server.jobs.answers import BodyAnswer
from server.synthesis.recipe import Step
from server.synthesis.requests import StepRequest, step_request
from tests.helpers.deadline import DEADLINE_S
from tests.helpers.fake_client import FakeClient, make_app, says
from tests.helpers.synthesis import completion
from tests.helpers.synthesis_requests import IDS, REQUESTS, RUN, RunKilled, Teacher

pytestmark = pytest.mark.fast


async def test_an_engine_answers_at_batch_priority(journal: AnswerJournal) -> None:
    client = FakeClient(says("Done."))
    answers = JournaledAnswers(journal, EngineAnswerer(make_app(client).state.context), None)
    async with asyncio.timeout(DEADLINE_S):
        found = await answers(REQUESTS)
    assert sorted(found) == IDS
    assert {request.service_class for request in client.requests} == {ServiceClass.BATCH}
    assert answers.num_computed == 6
    assert answers.num_tokens == sum(each.usage.input_tokens + each.usage.output_tokens for each in found.values())


async def test_nothing_is_computed_twice_after_a_kill(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl.journal"
    teacher = Teacher()

    class Kills(TeacherAnswerer):
        async def answer(self, requests: Any, store: Any) -> None:
            await super().answer(requests[:4], store)
            raise RunKilled

    journal = AnswerJournal(str(path), RUN)
    async with aclosing(teacher.client()) as client:
        with pytest.raises(RunKilled):
            await JournaledAnswers(journal, Kills(client, 1), None)(REQUESTS)
        journal.close()
        path.write_bytes(path.read_bytes()[:-20])  # the last line was not written whole
        journal = AnswerJournal(str(path), RUN)
        assert len(journal) == 3
        answers = JournaledAnswers(journal, TeacherAnswerer(client, 1), None)
        found = await answers(REQUESTS)
    journal.close()
    assert list(found) == IDS
    assert answers.num_computed == 3
    assert answers.num_tokens == 6 * 15
    asked = [body["messages"][0]["content"] for body in teacher.bodies]
    assert asked == [f"Do {n}." for n in (0, 1, 2, 3, 3, 4, 5)]
    assert [json.loads(line)["custom_id"] for line in path.read_bytes().splitlines()] == ["", *IDS]


async def test_a_budget_stops_the_run_and_a_larger_one_continues(journal: AnswerJournal) -> None:
    teacher = Teacher()
    async with aclosing(teacher.client()) as client:
        with pytest.raises(TokensSpent):
            await JournaledAnswers(journal, TeacherAnswerer(client, 1), 40)(REQUESTS)
        assert len(teacher.bodies) == 3
        await JournaledAnswers(journal, TeacherAnswerer(client, 1), 100)(REQUESTS)
    assert len(teacher.bodies) == 6


async def test_refusals_are_answers_that_the_journal_does_not_keep(journal: AnswerJournal) -> None:
    statuses = [400, 200]

    class Refuses:
        async def answer(self, requests: Sequence[StepRequest], store: Store) -> None:
            store(requests[0].custom_id, BodyAnswer("", statuses.pop(0), b"{}"))

    answers = JournaledAnswers(journal, Refuses(), None)
    assert (await answers(REQUESTS[:1]))[IDS[0]].status_code == 400
    assert len(journal) == 0
    assert (await answers(REQUESTS[:1]))[IDS[0]].status_code == 200
    assert len(journal) == 1


@pytest.mark.parametrize("form", [b"%s\r\n", b"\xef\xbb\xbf%s"], ids=["line breaks", "a byte order mark"])
async def test_answers_with_line_breaks_are_read_again_from_the_journal(tmp_path: Path, form: bytes) -> None:
    body = form % json.dumps(completion("Done."), indent=2).encode()
    path = str(tmp_path / "out.jsonl.journal")
    teacher = Teacher()
    teacher.content = body
    async with aclosing(teacher.client()) as client:
        for _ in range(2):
            with closing(AnswerJournal(path, RUN)) as journal:
                found = await JournaledAnswers(journal, TeacherAnswerer(client, 1), None)(REQUESTS[:2])
            assert [json.loads(found[each].body) for each in IDS[:2]] == [completion("Done.")] * 2
    assert len(teacher.bodies) == 2


@pytest.mark.parametrize(
    "content",
    [b"", b"<html>\x1b[31m</html>", b"[1, 2]", b"{}", b"[" * 200_000, b'{}},"error":null}\n{"x":1}\n{'],
    ids=["empty", "html", "a list", "an empty object", "deep", "more lines of a journal"],
)
async def test_a_body_that_is_no_completion_ends_the_run_and_is_not_stored(
    journal: AnswerJournal, content: bytes
) -> None:
    teacher = Teacher()
    teacher.content = content
    async with aclosing(teacher.client()) as client:
        with pytest.raises(StartupError, match=r'answers 200 with ".*", which is no chat completion') as raised:
            await JournaledAnswers(journal, TeacherAnswerer(client, 1), None)(REQUESTS[:2])
    assert str(raised.value).isprintable()
    assert len(teacher.bodies) == 1
    assert len(journal) == 0


async def test_a_teacher_answers_only_the_steps_that_are_named(journal: AnswerJournal) -> None:
    teacher, local = Teacher(), Teacher()
    judged = step_request(Step(name="judge", prompt="How good?"), {}, "000000-judge", "wise", 0)
    async with aclosing(teacher.client()) as client, aclosing(local.client()) as other:
        shared = SharedAnswerer(TeacherAnswerer(other, 1), TeacherAnswerer(client, 1), ["judge"])
        answers = JournaledAnswers(journal, shared, None)
        assert len(await answers([*REQUESTS, judged])) == 7
    assert teacher.bodies == [judged.body]
    assert local.bodies == [request.body for request in REQUESTS]
