"""Answers of a synthesis: from the journal first, then from an engine, a server's batches or a teacher."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import aclosing, closing
from datetime import UTC, datetime
from pathlib import Path
from sqlite3 import Connection
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from engine.errors import OptionError, StartupError
from engine.protocol import ServiceClass
from server.batches.record import BATCHES, BatchRecord
from server.commands.synthesize import http_client
from server.commands.synthesize.answering import (
    BatchAnswerer,
    EngineAnswerer,
    JournaledAnswers,
    SharedAnswerer,
    Store,
    TeacherAnswerer,
    TokensSpent,
)
from server.commands.synthesize.http_client import SynthesisClient
from server.commands.synthesize.journal import AnswerJournal, RunName
from server.jobs.answers import BodyAnswer
from server.schemas.batch_answers import BatchStatus
from server.synthesis.recipe import Step
from server.synthesis.requests import StepRequest, step_request
from tests.helpers.batches import batches_run
from tests.helpers.deadline import DEADLINE_S
from tests.helpers.fake_client import MODEL, FakeClient, make_app, says
from tests.helpers.synthesis import completion

pytestmark = pytest.mark.fast

RUN = RunName("mine", 0)
STEP = Step(name="reply", prompt="{task}", max_tokens=50)
REQUESTS = [step_request(STEP, {"task": f"Do {n}."}, f"{n:06}-reply", MODEL, 0) for n in range(6)]
IDS = [each.custom_id for each in REQUESTS]


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[AnswerJournal]:
    opened = AnswerJournal(str(tmp_path / "out.jsonl.journal"), RUN)
    yield opened
    opened.close()


class _Killed(Exception):
    pass


class Teacher:
    """A fake endpoint. replies: (status, headers) of its first answers; 0: the connection is refused. Then it answers
    all."""

    def __init__(self, *replies: tuple[int, dict[str, str]]) -> None:
        self.replies = list(replies)
        self.bodies: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.waits: list[float] = []
        self.content = json.dumps(completion("Done.")).encode()

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.bodies.append(json.loads(request.content))
        self.keys.append(request.headers.get("authorization"))
        if self.replies:
            status, headers = self.replies.pop(0)
            if not status:
                raise httpx.ConnectError("All connection attempts failed") from ConnectionRefusedError("refused")
            return httpx.Response(status, headers=headers, json={"error": {"message": "too much"}})
        return httpx.Response(200, content=self.content)

    async def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        await asyncio.sleep(0)

    def client(self) -> SynthesisClient:
        return SynthesisClient(
            "http://teacher/v1",
            "secret",
            key_source="OPENAI_API_KEY",
            sleep=self.sleep,
            transport=httpx.MockTransport(self),
        )


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
            raise _Killed

    journal = AnswerJournal(str(path), RUN)
    async with aclosing(teacher.client()) as client:
        with pytest.raises(_Killed):
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


async def test_a_teacher_answers_only_the_steps_that_are_named(journal: AnswerJournal) -> None:
    teacher, local = Teacher(), Teacher()
    judged = step_request(Step(name="judge", prompt="How good?"), {}, "000000-judge", "wise", 0)
    async with aclosing(teacher.client()) as client, aclosing(local.client()) as other:
        shared = SharedAnswerer(TeacherAnswerer(other, 1), TeacherAnswerer(client, 1), ["judge"])
        answers = JournaledAnswers(journal, shared, None)
        assert len(await answers([*REQUESTS, judged])) == 7
    assert teacher.bodies == [judged.body]
    assert local.bodies == [request.body for request in REQUESTS]


@pytest.fixture
def app() -> FastAPI:
    return make_app(FakeClient(says("Done.")))


@pytest.fixture
async def server(app: FastAPI) -> AsyncIterator[tuple[FakeClient, SynthesisClient]]:
    """A server that runs batches, and a client of it that does not sleep long."""
    client = SynthesisClient(
        "http://server", None, key_source="", sleep=lambda _: asyncio.sleep(0.01), transport=httpx.ASGITransport(app)
    )
    async with batches_run(app), asyncio.timeout(DEADLINE_S), aclosing(client):
        yield app.state.context.models.default.client, client


class Around(SynthesisClient):
    """A client whose requests `_around` changes. What it does not change goes to another one."""

    def __init__(self, client: SynthesisClient) -> None:
        super().__init__(client.url, None, key_source="HEADRACE_KEY")
        self.inner = client

    async def pause(self, seconds: float) -> None:
        await self.inner.pause(seconds)

    async def json(self, method: str, path: str, **given: Any) -> Any:
        return await self.inner.json(method, path, **given)

    async def send(self, method: str, path: str, **given: Any) -> httpx.Response:
        return await self.inner.send(method, path, **given)


async def test_a_server_answers_by_batches_and_its_files_are_deleted(
    journal: AnswerJournal, server: tuple[FakeClient, SynthesisClient]
) -> None:
    fake, client = server
    answers = JournaledAnswers(journal, BatchAnswerer(client, "run"), None)
    refused = StepRequest("000009-reply-x", {**REQUESTS[0].body, "max_completion_tokens": -1}, "reply")
    found = await answers([*REQUESTS[:3], refused])
    assert [found[custom_id].status_code for custom_id in (*IDS[:3], refused.custom_id)] == [200, 200, 200, 400]
    await answers(REQUESTS[3:])
    assert {request.service_class for request in fake.requests} == {ServiceClass.BATCH}
    assert len(fake.requests) == len(journal) == 6
    batches = (await client.json("GET", "/v1/batches"))["data"]
    assert [batch["metadata"] for batch in batches] == [{"synthesis": "run"}] * 2
    assert (await client.json("GET", "/v1/files"))["data"] == []


class Killed(Around):
    """A client of a run that is killed when its batch has been made."""

    async def json(self, method: str, path: str, **given: Any) -> Any:
        if path.startswith("/v1/batches/"):
            raise _Killed
        return await super().json(method, path, **given)


async def _kill_a_run(journal: AnswerJournal, client: SynthesisClient) -> None:
    async with aclosing(Killed(client)) as killed:
        with pytest.raises(_Killed):
            await JournaledAnswers(journal, BatchAnswerer(killed, "run"), None)(REQUESTS)


async def test_answers_of_a_batch_that_a_killed_run_left_are_used(
    journal: AnswerJournal, server: tuple[FakeClient, SynthesisClient]
) -> None:
    fake, client = server
    await _kill_a_run(journal, client)
    answers = JournaledAnswers(journal, BatchAnswerer(client, "run"), None)
    assert len(await answers(REQUESTS)) == len(fake.requests) == 6
    again = JournaledAnswers(journal, BatchAnswerer(client, "run"), None)  # whose old batch has no files any more
    await again([*REQUESTS, step_request(STEP, {"task": "More."}, "000007-reply", MODEL, 0)])
    assert len(fake.requests) == 7


@pytest.mark.parametrize("has_batch", [False, True])
async def test_a_file_that_a_killed_run_left_without_a_batch_is_deleted(
    journal: AnswerJournal,
    server: tuple[FakeClient, SynthesisClient],
    has_batch: bool,
    capsys: pytest.CaptureFixture[str],
) -> None:
    class KilledBefore(Around):
        """A client of a run that is killed when its file is uploaded."""

        async def json(self, method: str, path: str, **given: Any) -> Any:
            if (method, path) == ("POST", "/v1/batches"):
                raise _Killed
            return await super().json(method, path, **given)

    fake, client = server
    if has_batch:  # of the run before, which nobody has read yet
        await _kill_a_run(journal, client)
    else:
        form = {"data": {"purpose": "batch"}, "files": {"file": ("synthesis-other.jsonl", b"{}", "application/jsonl")}}
        await client.json("POST", "/v1/files", **form)
    requests = [*REQUESTS, step_request(STEP, {"task": "More."}, "000007-reply", MODEL, 0)]
    async with aclosing(KilledBefore(client)) as killed:
        with pytest.raises(_Killed):
            await JournaledAnswers(journal, BatchAnswerer(killed, "run"), None)(requests)
    assert (await _left_on(client))[1] == (1 if has_batch else 2)
    found = await JournaledAnswers(journal, BatchAnswerer(client, "run"), None)(requests)
    assert (len(found), len(fake.requests)) == (7, 7)
    names = [each["filename"] for each in (await client.json("GET", "/v1/files"))["data"]]
    assert names == ([] if has_batch else ["synthesis-other.jsonl"])
    assert capsys.readouterr().err.count("which a killed run left there without a batch") == 1


async def _add_batches(app: FastAPI, number: int) -> None:
    """Add batches of the same key that have ended, newer than all others."""

    def work(connection: Connection) -> None:
        for place in range(number):
            record = BatchRecord(
                id=f"batch_new{place}",
                owner="",
                endpoint="/v1/embeddings",
                input_file_id="file-x",
                completion_window="24h",
                created_at=2**40,
                expires_at=2**40,
                status=BatchStatus.CANCELLED,
            )
            BATCHES.insert(connection, record)

    await app.state.context.files.database.run(work)


@pytest.mark.parametrize("num_newer", [100, 250])
async def test_a_batch_of_a_killed_run_is_found_behind_many_newer_ones(
    journal: AnswerJournal, app: FastAPI, server: tuple[FakeClient, SynthesisClient], num_newer: int
) -> None:
    fake, client = server
    await _kill_a_run(journal, client)
    await _add_batches(app, num_newer)
    answers = JournaledAnswers(journal, BatchAnswerer(client, "run"), None)
    assert len(await answers(REQUESTS)) == len(fake.requests) == 6


async def test_the_search_for_the_batch_of_a_killed_run_ends(
    journal: AnswerJournal, server: tuple[FakeClient, SynthesisClient], capsys: pytest.CaptureFixture[str]
) -> None:
    class Endless(Around):
        num_pages = 0

        async def json(self, method: str, path: str, **given: Any) -> Any:
            if path != "/v1/batches" or method != "GET":
                return await super().json(method, path, **given)
            self.num_pages += 1
            page = [{"id": f"batch-{self.num_pages}-{place}", "metadata": None} for place in range(100)]
            return {"data": page, "has_more": True}

    async with aclosing(Endless(server[1])) as client:
        assert len(await JournaledAnswers(journal, BatchAnswerer(client, "run"), None)(REQUESTS)) == 6
    assert client.num_pages == 100
    message = "http://server has more than 10,000 batches; an older one of this run is not looked for"
    assert message in capsys.readouterr().err


async def _interrupted(client: SynthesisClient, journal: AnswerJournal, until: Callable[[], bool]) -> None:
    """Interrupt a run as Ctrl-C does, once a condition holds."""
    run = asyncio.create_task(JournaledAnswers(journal, BatchAnswerer(client, "run"), None)(REQUESTS))
    async with asyncio.timeout(DEADLINE_S):
        while not until():
            await asyncio.sleep(0.001)
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run


async def _left_on(client: SynthesisClient) -> tuple[set[str], int]:
    """Return the statuses of the batches, and the number of files."""
    batches = (await client.json("GET", "/v1/batches"))["data"]
    return {each["status"] for each in batches}, len((await client.json("GET", "/v1/files"))["data"])


async def test_an_interrupted_run_ends_its_batch_stores_the_answers_and_leaves_no_files(
    journal: AnswerJournal, server: tuple[FakeClient, SynthesisClient]
) -> None:
    fake, client = server
    answers = fake.script
    fake.script = lambda request: [None] if ord("5") in request.prompt_ids else answers(request)
    await _interrupted(client, journal, lambda: fake.num_open == 1 and len(fake.requests) == 6)
    assert await _left_on(client) == ({"cancelled"}, 0)
    assert all(journal.get(name) for name in IDS[:5])
    fake.script = answers
    found = await JournaledAnswers(journal, BatchAnswerer(client, "run"), None)(REQUESTS)
    assert (len(found), len(fake.requests)) == (6, 7)


@pytest.mark.parametrize("path", ["/v1/files", "/v1/batches"])
async def test_a_run_that_is_interrupted_while_its_batch_is_made_leaves_no_files(
    journal: AnswerJournal, server: tuple[FakeClient, SynthesisClient], path: str
) -> None:
    _, client = server
    made = asyncio.Event()

    class Slow(Around):
        """Gets the answer to a request when the run has been interrupted."""

        async def json(self, method: str, path_: str, **given: Any) -> Any:
            answer = await super().json(method, path_, **given)
            if (method, path_) == ("POST", path):
                made.set()
                await asyncio.sleep(0.01)
            return answer

    async with aclosing(Slow(client)) as slow:
        await _interrupted(slow, journal, made.is_set)
    statuses, num_files = await _left_on(client)
    assert statuses <= {"cancelled", "completed"}
    assert num_files == 0


async def test_the_file_of_a_batch_that_is_refused_is_deleted(
    journal: AnswerJournal, server: tuple[FakeClient, SynthesisClient]
) -> None:
    class Refuses(Around):
        async def json(self, method: str, path: str, **given: Any) -> Any:
            if (method, path) == ("POST", "/v1/batches"):
                raise StartupError("1000 batches have not ended")
            return await super().json(method, path, **given)

    async with aclosing(Refuses(server[1])) as client:
        with pytest.raises(StartupError, match="1000 batches"):
            await JournaledAnswers(journal, BatchAnswerer(client, "run"), None)(REQUESTS)
    assert await _left_on(server[1]) == (set(), 0)


async def test_an_interrupted_run_whose_server_is_away_says_what_may_remain(
    journal: AnswerJournal, server: tuple[FakeClient, SynthesisClient], capsys: pytest.CaptureFixture[str]
) -> None:
    fake, client = server
    fake.script = lambda _: [None]

    class Away(Around):
        async def send(self, *_: Any, **__: Any) -> httpx.Response:
            raise StartupError("http://server cannot be reached (refused)")

    async with aclosing(Away(client)) as away:
        await _interrupted(away, journal, lambda: fake.num_open > 0)
    said = capsys.readouterr().err
    assert "http://server cannot be reached (refused); what the run has there may remain until it expires" in said


async def test_answers_that_cannot_be_downloaded_are_neither_lost_nor_deleted(
    journal: AnswerJournal, server: tuple[FakeClient, SynthesisClient]
) -> None:
    fake, client = server
    refusal = httpx.Response(403, json={"error": {"message": "the key may not read files"}})

    class Refuses(Around):
        async def send(self, method: str, path: str, **given: Any) -> httpx.Response:
            response = await super().send(method, path, **given)
            if not path.endswith("/content"):
                return response
            refusal.request = response.request
            return refusal

    async with aclosing(Refuses(client)) as refused:
        with pytest.raises(
            StartupError,
            match=r"^http://server/v1/files/file-\w+/content answers 403: the key may not read files; check the key in "
            r"HEADRACE_KEY; the answers of the batch batch_\w+ stay there$",
        ):
            await JournaledAnswers(journal, BatchAnswerer(refused, "run"), None)(REQUESTS)
    answers = JournaledAnswers(journal, BatchAnswerer(client, "run"), None)
    assert len(await answers(REQUESTS)) == len(fake.requests) == 6


def test_a_file_that_is_no_journal_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("text\n")
    with pytest.raises(StartupError, match="is not the journal of a synthesis"):
        AnswerJournal(str(tmp_path / "a"), RUN)
    assert (tmp_path / "a").read_text() == "text\n"


def test_answers_of_another_run_are_not_mixed_with_these(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl.journal"
    other = RunName("other", 0)
    with closing(AnswerJournal(str(path), other)):
        pass  # without answers, nothing is lost
    with closing(AnswerJournal(str(path), RUN)) as journal:
        journal.add(IDS[0], BodyAnswer("", 200, b"{}"))
    before = path.read_bytes()
    for run in (other, RunName("mine", 1)):
        with pytest.raises(
            OptionError, match=rf"is of recipe mine with --seed 0, and {run} would replace its lines; na"
        ):
            AnswerJournal(str(path), run)
    assert path.read_bytes() == before
    with closing(AnswerJournal(str(path), RUN)) as journal:
        assert len(journal) == 1
    path.write_bytes(before.splitlines(keepends=True)[-1])
    with pytest.raises(OptionError, match="is of an unknown run, and recipe mine"):
        AnswerJournal(str(path), RUN)
