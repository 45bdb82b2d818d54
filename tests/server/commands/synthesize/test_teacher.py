"""Teachers that are busy, away, wrong or unknown: waits, retries and errors."""

from contextlib import aclosing
from datetime import UTC, datetime

import httpx
import pytest

from engine.errors import OptionError, StartupError
from server.commands.synthesize import http_client
from server.commands.synthesize.answering import (
    JournaledAnswers,
    TeacherAnswerer,
)
from server.commands.synthesize.http_client import SynthesisClient
from server.commands.synthesize.journal import AnswerJournal
from tests.helpers.synthesis_requests import IDS, REQUESTS, Teacher

pytestmark = pytest.mark.fast


async def test_a_teacher_that_is_busy_is_asked_again_after_its_time(
    journal: AnswerJournal, capsys: pytest.CaptureFixture[str]
) -> None:
    teacher = Teacher((429, {"retry-after": "7"}), (503, {}), (500, {"retry-after": "tomorrow"}))
    async with aclosing(teacher.client()) as client:
        found = await JournaledAnswers(journal, TeacherAnswerer(client, 1), None)(REQUESTS[:1])
    assert found[IDS[0]].is_completed
    assert teacher.waits == [7, 2, 4]
    assert set(teacher.keys) == {"Bearer secret"}
    assert capsys.readouterr().err.splitlines() == [
        "http://teacher answers 429 (too much); attempt 2 of 6 follows in 7 s",
        "http://teacher answers 503 (too much); attempt 3 of 6 follows in 2 s",
        "http://teacher answers 500 (too much); attempt 4 of 6 follows in 4 s",
    ]


@pytest.mark.parametrize(
    ("retry_after", "wait_s"),
    [
        ("Wed, 21 Oct 2026 07:28:30 GMT", 30),
        ("Wednesday, 21-Oct-26 07:28:30 GMT", 30),
        ("Wed, 21 Oct 2026 07:28:30 -0000", 30),  # no zone is GMT, too
        ("Wed, 21 Oct 2026 07:27:00 GMT", 0),
        ("Wed, 21 Oct 99999999999999999999 07:28:30 GMT", 1),
        ("Wed, 41 Oct 2026 07:28:30 GMT", 1),
        ("", 1),
    ],
)
async def test_the_time_of_a_teacher_may_be_a_date(journal: AnswerJournal, retry_after: str, wait_s: float) -> None:
    teacher = Teacher((503, {"retry-after": retry_after, "date": "Wed, 21 Oct 2026 07:28:00 GMT"}))
    async with aclosing(teacher.client()) as client:
        await JournaledAnswers(journal, TeacherAnswerer(client, 1), None)(REQUESTS[:1])
    assert teacher.waits == [wait_s]


@pytest.mark.parametrize(
    ("date", "wait_s"), [("Wed, 21 Oct 2026 07:28:30 GMT", 20), ("Tue, 20 Oct 2026 07:28:00 GMT", 0)]
)
async def test_a_date_without_the_one_of_the_answer_is_compared_with_the_clock(
    journal: AnswerJournal, monkeypatch: pytest.MonkeyPatch, date: str, wait_s: float
) -> None:
    now_s = datetime(2026, 10, 21, 7, 28, 10, tzinfo=UTC).timestamp()
    monkeypatch.setattr(http_client.time, "time", lambda: now_s)
    teacher = Teacher((503, {"retry-after": date}))
    async with aclosing(teacher.client()) as client:
        await JournaledAnswers(journal, TeacherAnswerer(client, 1), None)(REQUESTS[:1])
    assert teacher.waits == [wait_s]


async def test_a_teacher_that_restarts_is_asked_again_and_reported_once(
    journal: AnswerJournal, capsys: pytest.CaptureFixture[str]
) -> None:
    teacher = Teacher((429, {}), (0, {}), (0, {}))
    async with aclosing(teacher.client()) as client:
        await JournaledAnswers(journal, TeacherAnswerer(client, 1), None)(REQUESTS[:1])
        assert "http://teacher cannot be reached (refused); attempt 3 of 6 follows in 2 s" in capsys.readouterr().err
        teacher.replies = [(0, {}), (0, {})]
        await JournaledAnswers(journal, TeacherAnswerer(client, 2), None)(REQUESTS[1:3])
    assert capsys.readouterr().err == "http://teacher cannot be reached (refused); attempt 2 of 6 follows in 1 s\n"


@pytest.mark.parametrize(
    ("replies", "message", "num_asked"),
    [
        ([(429, {"retry-after": "0"})] * 9, r"http://teacher answers 429 \(too much\); what is done is stored", 6),
        ([(429, {"retry-after": "3600"})], r"wants to be asked again in 3,600 s; what is done is stored", 1),
        (
            [(429, {"retry-after": "Wed, 21 Oct 2026 08:28:00 GMT", "date": "Wed, 21 Oct 2026 07:28:00 GMT"})],
            r"wants to be asked again in 3,600 s; what is done is stored",
            1,
        ),
        ([(400, {})], r"^http://teacher/v1/chat/completions answers 400: too much$", 1),
        ([(401, {})], r"http://teacher/v1/chat/completions answers 401: too much; check the key in OPENAI_API_KEY", 1),
        ([(404, {})], r"http://teacher/v1/chat/completions answers 404: too much", 1),
        ([(301, {"location": "https://b/"})], r"http://teacher answers 301 and redirects to https://b/, which", 1),
        ([(0, {})], r"http://teacher cannot be reached \(refused\); check the address", 1),
    ],
)
async def test_a_teacher_that_stays_away_ends_the_run(
    journal: AnswerJournal, replies: list[tuple[int, dict[str, str]]], message: str, num_asked: int
) -> None:
    teacher = Teacher(*replies)
    async with aclosing(teacher.client()) as client:
        with pytest.raises(StartupError, match=message) as raised:
            await JournaledAnswers(journal, TeacherAnswerer(client, 1), None)(REQUESTS[:2])
    assert len(teacher.bodies) == num_asked
    is_wrong_address = "check the address" in message or "redirects" in message
    assert isinstance(raised.value, OptionError) is is_wrong_address  # exit code 2


@pytest.mark.parametrize(
    ("url", "key", "message"),
    [
        ("http://a b:x", None, "http://a b:x is no address: Invalid"),
        ("http://", None, "http: names no host"),
        ("http://teacher", "a\nb", "the key in OPENAI_API_KEY has a line break"),
        ("http://teacher", "sk\u00e4", "or a letter beyond ASCII; copy"),
    ],
)
def test_wrong_addresses_and_keys_are_refused(url: str, key: str | None, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        SynthesisClient(url, key, key_source="OPENAI_API_KEY")


@pytest.mark.parametrize(
    ("content", "message"), [(b"<html>", "answers without JSON"), (b'{"a": 1}', "is no list"), (b"[]", "is no list")]
)
async def test_an_address_of_another_kind_is_named(content: bytes, message: str) -> None:
    transport = httpx.MockTransport(lambda _: httpx.Response(200, content=content))
    async with aclosing(SynthesisClient("http://page", "", key_source="", transport=transport)) as client:
        with pytest.raises(StartupError, match=f"http://page/v1/models {message}"):
            await client.only_model()


@pytest.mark.parametrize(
    ("status", "content", "warning"),
    [
        (
            200,
            b'{"data": [{"id": "a"}]}',
            "http://teacher lists no model wise, so it may refuse the requests; it lists a",
        ),
        (200, b'{"data": [{"id": "wise"}]}', ""),
        (200, b'{"data": []}', ""),
        (200, b"<html>", ""),
        (404, b"{}", ""),
        (500, b"{}", ""),
    ],
)
async def test_a_model_that_an_endpoint_does_not_list_is_warned_of(
    status: int, content: bytes, warning: str, capsys: pytest.CaptureFixture[str]
) -> None:
    async def no_sleep(_: float) -> None: ...

    transport = httpx.MockTransport(lambda _: httpx.Response(status, content=content))
    client = SynthesisClient("http://teacher", "", key_source="", transport=transport, sleep=no_sleep)
    async with aclosing(client):
        await client.warn_of_unlisted("wise")
    said = [line for line in capsys.readouterr().err.splitlines() if "attempt" not in line]
    assert said == ([warning] if warning else [])
