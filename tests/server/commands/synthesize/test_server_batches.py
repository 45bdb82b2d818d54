"""Answers from batches of a running server, also after kills and interruptions."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from sqlite3 import Connection
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from engine.errors import StartupError
from engine.protocol import ServiceClass
from server.batches.record import BATCHES, BatchRecord
from server.commands.synthesize.answering import (
    BatchAnswerer,
    JournaledAnswers,
)
from server.commands.synthesize.http_client import SynthesisClient
from server.commands.synthesize.journal import AnswerJournal
from server.schemas.batch_answers import BatchStatus
from server.synthesis.requests import StepRequest, step_request
from tests.helpers.batches import batches_run
from tests.helpers.deadline import DEADLINE_S
from tests.helpers.fake_client import MODEL, FakeClient, make_app, says
from tests.helpers.synthesis_requests import IDS, REQUESTS, STEP, RunKilled

pytestmark = pytest.mark.fast


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
            raise RunKilled
        return await super().json(method, path, **given)


async def _kill_a_run(journal: AnswerJournal, client: SynthesisClient) -> None:
    async with aclosing(Killed(client)) as killed:
        with pytest.raises(RunKilled):
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
                raise RunKilled
            return await super().json(method, path, **given)

    fake, client = server
    if has_batch:  # of the run before, which nobody has read yet
        await _kill_a_run(journal, client)
    else:
        form = {"data": {"purpose": "batch"}, "files": {"file": ("synthesis-other.jsonl", b"{}", "application/jsonl")}}
        await client.json("POST", "/v1/files", **form)
    requests = [*REQUESTS, step_request(STEP, {"task": "More."}, "000007-reply", MODEL, 0)]
    async with aclosing(KilledBefore(client)) as killed:
        with pytest.raises(RunKilled):
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
