"""/v1/batches as the official client uses it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import openai
import pytest
from fastapi import FastAPI

from server.config.storage import StorageConfig
from tests.helpers.batches import CHAT, batches_run, chat_line, ended, jsonl, read_jsonl
from tests.helpers.fake_client import MODEL, FakeClient, make_app, says

pytestmark = pytest.mark.fast


def official(app: FastAPI, key: str = "none") -> openai.AsyncOpenAI:
    """The official client, which calls the application directly."""
    http = httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://server/v1")
    return openai.AsyncOpenAI(base_url="http://server/v1", api_key=key, http_client=http, max_retries=0)


@contextlib.asynccontextmanager
async def _served(**options: object) -> AsyncIterator[tuple[openai.AsyncOpenAI, FakeClient]]:
    engine = FakeClient(says("Because."))
    app = make_app(engine, **options)
    async with official(app) as client, batches_run(app):
        yield client, engine


async def _create(client: openai.AsyncOpenAI, data: bytes, endpoint: Any = CHAT, **more: Any) -> Any:
    file = await client.files.create(file=("lines.jsonl", data), purpose="batch")
    return await client.batches.create(input_file_id=file.id, endpoint=endpoint, completion_window="24h", **more)


async def test_a_batch_is_answered_line_by_line() -> None:
    lines = [*(chat_line(f"line-{i}", max_tokens=20) for i in range(30)), chat_line("bad", temperature="hot")]
    async with _served() as (client, _):
        made = await _create(client, jsonl(lines), metadata={"night": "1"})
        assert (made.object, made.status, made.endpoint) == ("batch", "validating", CHAT)
        assert made.id.startswith("batch_")
        assert made.expires_at == made.created_at + 86400
        batch = await ended(client, made.id)
        assert batch.status == "completed"
        assert batch.model == MODEL
        assert batch.metadata == {"night": "1"}
        assert batch.request_counts.model_dump() == {"total": 31, "completed": 30, "failed": 1}
        times = [batch.created_at, batch.in_progress_at, batch.finalizing_at, batch.completed_at]
        assert times == sorted(times)
        assert batch.usage.output_tokens == 30 * len("Because.")
        assert batch.usage.total_tokens == batch.usage.input_tokens + batch.usage.output_tokens
        assert batch.usage.input_tokens_details.cached_tokens == 60
        output = read_jsonl((await client.files.content(batch.output_file_id)).content)
        assert sorted(each["custom_id"] for each in output) == sorted(f"line-{i}" for i in range(30))
        for each in output:
            assert (each["response"]["status_code"], each["error"]) == (200, None)
            answer = openai.types.chat.ChatCompletion.model_validate(each["response"]["body"])
            assert answer.choices[0].message.content == "Because."
        (error,) = read_jsonl((await client.files.content(batch.error_file_id)).content)
        assert (error["custom_id"], error["response"]["status_code"], error["error"]) == ("bad", 400, None)
        assert error["response"]["body"]["error"]["param"] == "temperature"
        file = await client.files.retrieve(batch.output_file_id)
        assert (file.purpose, file.filename) == ("batch_output", f"{batch.id}_output.jsonl")
        assert file.bytes == len((await client.files.content(file.id)).content)


async def test_faults_of_the_input_are_told_with_their_lines(caplog: pytest.LogCaptureFixture) -> None:
    bad: list[bytes] = [
        jsonl([chat_line("a")]),
        b"{not json\n",
        b"\n",
        jsonl([chat_line("a")]),
        jsonl([{**chat_line("b"), "url": "/v1/completions"}]),
        jsonl([chat_line("c", model="other")]),
        jsonl([{"custom_id": "d"}])[:-1],
    ]
    async with _served() as (client, _):
        batch = await ended(client, (await _create(client, b"".join(bad))).id)
        assert batch.status == "failed"
        assert batch.failed_at is not None
        assert batch.errors.object == "list"
        assert [(each.code, each.line, each.param) for each in batch.errors.data] == [
            ("invalid_json_line", 2, None),
            ("duplicate_custom_id", 4, "custom_id"),
            ("url_mismatch", 5, "url"),
            ("model_mismatch", 6, "body.model"),
            ("missing_required_parameter", 7, "method"),
        ]
        assert (batch.output_file_id, batch.error_file_id) == (None, None)
        assert batch.request_counts.total == 0
    assert f"batch {batch.id} is failed: invalid_json_line in line 2" in caplog.text


@pytest.mark.parametrize(
    ("data", "code", "line"),
    [
        (b"", "empty_file", None),
        (b"\n \n", "empty_file", None),
        (jsonl(chat_line(f"{i}") for i in range(4)), "too_many_tasks", None),
        (jsonl([chat_line("a", text="x" * 3000)]), "line_too_long", 1),
    ],
)
async def test_a_file_that_is_no_batch_fails(data: bytes, code: str, line: int | None) -> None:
    async with _served(storage=StorageConfig(max_batch_requests=3), max_request_bytes=2000) as (client, _):
        batch = await ended(client, (await _create(client, data)).id)
        assert batch.status == "failed"
        assert [(each.code, each.line) for each in batch.errors.data] == [(code, line)]


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"input_file_id": "file-none"}, "input_file_id"),
        ({"endpoint": "/v1/images/generations"}, "endpoint"),
        ({"completion_window": "soon"}, "completion_window"),
        ({"completion_window": "31d"}, "completion_window"),
        ({"output_expires_after": {"anchor": "created_at", "seconds": 1}}, "output_expires_after.seconds"),
    ],
)
async def test_a_wrong_field_is_named(change: dict[str, Any], param: str) -> None:
    async with _served() as (client, _):
        file = await client.files.create(file=("a", b"{}"), purpose="batch")
        body: dict[str, Any] = {"input_file_id": file.id, "endpoint": CHAT, "completion_window": "24h", **change}
        with pytest.raises(openai.APIStatusError) as caught:
            await client.batches.create(**body)
        assert caught.value.param == param


async def test_a_file_of_another_purpose_is_refused() -> None:
    async with _served() as (client, _):
        file = await client.files.create(file=("a", b"{}"), purpose="user_data")
        with pytest.raises(openai.BadRequestError, match="upload it with 'batch'"):
            await client.batches.create(input_file_id=file.id, endpoint=CHAT, completion_window="24h")


async def test_batches_are_listed_in_pages() -> None:
    async with _served() as (client, _):
        made = [(await _create(client, jsonl([chat_line("a")]))).id for _ in range(5)]
        assert [each.id async for each in await client.batches.list(limit=2)] == made[::-1]
        assert [each.id for each in (await client.batches.list(after=made[2])).data] == made[1::-1]
        with pytest.raises(openai.BadRequestError):
            await client.batches.list(after="batch_none")
        with pytest.raises(openai.NotFoundError):
            await client.batches.retrieve("batch_none")
        with pytest.raises(openai.NotFoundError):
            await client.batches.cancel("batch_none")


async def test_a_canceled_batch_keeps_what_it_has() -> None:
    """Half of the lines never end."""

    def script(request: Any) -> Any:
        return [None] if b"slow" in bytes(i for i in request.prompt_ids if i < 256) else says("Because.")(request)

    engine = FakeClient(script, batch_limit=100)
    app = make_app(engine)
    lines = [chat_line(f"{i}", "slow" if i % 2 else "fast") for i in range(20)]
    async with official(app) as client, batches_run(app):
        made = await _create(client, jsonl(lines))
        while (await client.batches.retrieve(made.id)).request_counts.completed < 10:
            await asyncio.sleep(0.01)
        assert (await client.batches.cancel(made.id)).status == "cancelling"
        batch = await ended(client, made.id)
        assert batch.status == "cancelled"
        assert batch.cancelled_at >= batch.cancelling_at
        assert batch.request_counts.model_dump() == {"total": 20, "completed": 10, "failed": 10}
        errors = read_jsonl((await client.files.content(batch.error_file_id)).content)
        assert {each["error"]["code"] for each in errors} == {"batch_cancelled"}
        output = read_jsonl((await client.files.content(batch.output_file_id)).content)
        assert sorted(int(each["custom_id"]) for each in [*output, *errors]) == list(range(20))
        assert engine.num_open == 0
        with pytest.raises(openai.BadRequestError, match="Cannot cancel a batch with status 'cancelled'"):
            await client.batches.cancel(made.id)


async def test_an_input_file_stays_while_its_batch_runs() -> None:
    engine = FakeClient(lambda _: [None])
    app = make_app(engine)
    async with official(app) as client, batches_run(app):
        made = await _create(client, jsonl([chat_line("a")]))
        with pytest.raises(openai.BadRequestError, match="cancel the batch"):
            await client.files.delete(made.input_file_id)
        await client.batches.cancel(made.id)
        await ended(client, made.id)
        assert (await client.files.delete(made.input_file_id)).deleted


async def test_a_batch_expires_with_what_it_has() -> None:
    engine = FakeClient(lambda _: [None])
    app = make_app(engine)
    files = app.state.context.files
    now_s = files.clock()
    async with official(app) as client:
        made = await _create(client, jsonl([chat_line("a"), chat_line("b")]))
        files.clock = lambda: now_s + 86401
        async with batches_run(app):
            batch = await ended(client, made.id)
        assert batch.status == "expired"
        assert batch.expired_at >= batch.expires_at
        errors = read_jsonl((await client.files.content(batch.error_file_id)).content)
        assert [each["error"]["code"] for each in errors] == ["batch_expired"] * 2


@pytest.mark.parametrize(
    ("endpoint", "body"),
    [
        ("/v1/completions", {"model": MODEL, "prompt": "a", "max_tokens": 3}),
        ("/v1/responses", {"model": MODEL, "input": "hi"}),
    ],
)
async def test_other_endpoints_have_batches(endpoint: str, body: dict[str, Any]) -> None:
    async with _served() as (client, _):
        line = {"custom_id": "a", "method": "POST", "url": endpoint, "body": body}
        batch = await ended(client, (await _create(client, jsonl([line]), endpoint)).id)
        assert batch.request_counts.model_dump() == {"total": 1, "completed": 1, "failed": 0}
        assert batch.usage.output_tokens == len("Because.")


async def test_lines_that_name_no_model_mean_the_first() -> None:
    async with _served() as (client, _):
        line = {**chat_line("a"), "body": {"messages": [{"role": "user", "content": "hi"}]}}
        batch = await ended(client, (await _create(client, jsonl([line]))).id)
        assert (batch.model, batch.request_counts.completed) == (MODEL, 1)


async def test_metrics_tell_what_became_of_lines() -> None:
    engine = FakeClient(says("Because."))
    app = make_app(engine)
    async with official(app) as client, batches_run(app):
        made = await _create(client, jsonl([chat_line("a"), chat_line("b", n="many")]))
        await ended(client, made.id)
        app.state.context.wake_job(made.id)
        text = ""
        while 'headrace_batches{status="completed"} 1.0' not in text:
            await asyncio.sleep(0.01)
            text = await client.get("http://server/metrics", cast_to=str)
        assert 'headrace_batch_lines_total{outcome="completed"} 1.0' in text
        assert 'headrace_batch_lines_total{outcome="failed"} 1.0' in text
        assert "headrace_files 3.0" in text
