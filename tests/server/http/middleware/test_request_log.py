"""One line for each request, with what an operator asks of it and nothing that a client wrote."""

import asyncio
import logging
from collections import Counter
from typing import Any

import pytest

from engine.protocol import EngineRequest, FinishReason, RequestOutput
from server.http.middleware.request_log import RequestLog
from server.metrics.request_record import RequestRecord
from tests.helpers.asgi import DEFAULT_HEADERS, RawRequest
from tests.helpers.fake_client import MODEL, FakeClient, Step, http, make_app, says

pytestmark = pytest.mark.fast

CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "sesame"}]}
LOGGER = "server.http.middleware.request_log"


def _lines(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    """The fields of all lines, their durations left out after a look."""
    lines = [dict(vars(record)["fields"]) for record in caplog.records if record.name == LOGGER]
    for line in lines:
        assert line.pop("duration_s") >= 0
        assert line.pop("client") == "127.0.0.1"
    return lines


@pytest.fixture(autouse=True)
def _at_info(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_generation_is_told_with_its_tokens_and_its_end(caplog: pytest.LogCaptureFixture, stream: bool) -> None:
    async with http(make_app(FakeClient(says("open", finish=FinishReason.STOP)))) as api:
        answer = await api.post(
            "/v1/chat/completions", json={**CHAT, "stream": stream, "n": 2}, headers={"x-request-id": "abc-1"}
        )
    (line,) = _lines(caplog)
    assert line.pop("ttft_s") >= 0
    assert line == {
        "method": "POST",
        "route": "/v1/chat/completions",
        "status": 200,
        "outcome": "completed",
        "request_id": "abc-1",
        "model": MODEL,
        "prompt_tokens": 25,
        "cached_tokens": 2,
        "output_tokens": 10,
        "choices": 2,
        "finish": "stop",
    }
    assert answer.headers["x-request-id"] == "abc-1"
    assert "POST /v1/chat/completions 200 outcome=completed request_id=abc-1" in caplog.text


async def test_a_refusal_is_told_with_its_code(caplog: pytest.LogCaptureFixture) -> None:
    client = FakeClient(says("x"))
    client.capacity = 0
    async with http(make_app(client)) as api:
        await api.post("/v1/chat/completions", json=CHAT)
        client.capacity = 1
        await api.post("/v1/chat/completions", json={**CHAT, "max_tokens": 10**6})
        await api.get("/nothing/here")
    told = [(line["route"], line["status"], line["outcome"], line["error"]) for line in _lines(caplog)]
    assert told == [
        ("/v1/chat/completions", 429, "refused", "rate_limit_exceeded"),
        ("/v1/chat/completions", 400, "refused", "context_length_exceeded"),
        ("unmatched", 404, "refused", "not_found"),
    ]


async def test_a_client_that_goes_away_is_told_with_what_it_got(caplog: pytest.LogCaptureFixture) -> None:
    def script(request: EngineRequest) -> list[Step]:
        return [RequestOutput(id=request.id, new_ids=[72], queue_s=0.1), None]

    async with RawRequest(make_app(FakeClient(script)), "/v1/chat/completions", {**CHAT, "stream": True}) as request:
        await request.until(lambda: b"content" in request.body)
        request.disconnect()
        await request.ended()
    (line,) = _lines(caplog)
    assert (line["status"], line["outcome"], line["output_tokens"], line["finish"]) == (499, "aborted", 1, "abort")


async def test_a_stream_that_breaks_off_has_failed_whatever_its_status(caplog: pytest.LogCaptureFixture) -> None:
    def script(request: EngineRequest) -> list[Step]:
        end = RequestOutput(id=request.id, finish_reason=FinishReason.ERROR, error="not finite")
        return [RequestOutput(id=request.id, new_ids=[72]), end]

    async with http(make_app(FakeClient(script))) as api:
        await api.post("/v1/chat/completions", json={**CHAT, "stream": True})
    (line,) = _lines(caplog)
    assert (line["status"], line["outcome"], line["error"]) == (200, "failed", "generation_failed")


async def test_a_background_response_is_told_when_it_ends(caplog: pytest.LogCaptureFixture) -> None:
    app = make_app(FakeClient(says("done")))
    async with http(app) as api:
        await api.post("/v1/responses", json={"input": "sesame", "background": True})
        assert _lines(caplog) == []
        await app.state.context.runs.finish(5.0)
    (line,) = _lines(caplog)
    assert (line["status"], line["outcome"], line["output_tokens"]) == (200, "completed", 4)


async def test_nothing_that_a_client_wrote_is_told(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    app = make_app(FakeClient(says("treasure")), api_key=("sk-cave",))
    async with http(app, authorization="Bearer sk-cave") as api:
        await api.post("/v1/chat/completions", json={**CHAT, "user": "ali"})
        await api.post("/v1/chat/completions", json={**CHAT, "model": "sesame"})
        await api.get("/v1/models/sesame")
        await api.get("/sesame?sesame=1")
    async with http(app, authorization="Bearer sk-thief", **{"x-request-id": "sesame sesame"}) as api:
        await api.post("/v1/chat/completions", json=CHAT)
    told = "\n".join(record.getMessage() + str(vars(record)) for record in caplog.records if record.name == LOGGER)
    assert len(_lines(caplog)) == 5
    assert not [word for word in ("sesame", "treasure", "sk-cave", "sk-thief", "ali ") if word in told]


async def test_a_storm_of_refusals_is_told_in_a_few_lines(caplog: pytest.LogCaptureFixture) -> None:
    client = FakeClient(says("x"))
    app = make_app(client)
    client.capacity = 0
    async with http(app) as api:
        await asyncio.gather(*(api.post("/v1/chat/completions", json=CHAT) for _ in range(200)))
        await api.get("/nothing/here")  # another code has lines of its own
        client.capacity = 1
        await api.post("/v1/chat/completions", json=CHAT)
    told = Counter((line["status"], line.get("error")) for line in _lines(caplog))
    assert told == {(429, "rate_limit_exceeded"): 10, (404, "not_found"): 1, (200, None): 1}


async def test_refusals_without_a_line_are_told_as_a_sum_when_their_window_closes(
    caplog: pytest.LogCaptureFixture,
) -> None:
    log = RequestLog()
    for _ in range(2):
        for number in range(25):
            record = RequestRecord(f"r{number}", "POST", log.log)
            record.status = 429
            record.note_error(429, "rate_limit_exceeded")
            record.release()
        log.close_window()
    sums = [vars(record)["fields"] for record in caplog.records if "untold" in vars(record)["fields"]]
    assert sums == [{"error": "rate_limit_exceeded", "refusals": 25, "untold": 15}] * 2
    assert len(caplog.records) == 2 * (10 + 1)
    log.close_window()
    assert len(caplog.records) == 22  # nothing was refused since


async def test_control_characters_of_clients_are_in_no_line(caplog: pytest.LogCaptureFixture) -> None:
    forged = "x\r\n2026-01-05 10:12:31,402 ERROR   engine: all is lost"
    headers = [*DEFAULT_HEADERS, (b"x-request-id", forged.encode()), (b"user-agent", forged.encode())]
    app = make_app(FakeClient(says("ok")))
    for path, body in (
        ("/v1/chat/completions", {**CHAT, "model": forged, "user": forged}),
        ("/v1/chat/completions", {**CHAT, "user": forged, "messages": [{"role": "user", "content": forged}]}),
        ("/v1/chat/completions", {**CHAT, forged: 1, "temperature": forged}),
        ("/v1/chat/completions" + forged, CHAT),
    ):
        async with RawRequest(app, path, body, headers=headers) as request:
            await request.ended()
    caplog.set_level(logging.DEBUG)
    assert len(_lines(caplog)) == 4
    assert "all is lost" not in "".join(record.getMessage() + str(vars(record)) for record in caplog.records)


async def test_probes_are_told_at_debug_alone(caplog: pytest.LogCaptureFixture) -> None:
    async with http(make_app(FakeClient(says("x")))) as api:
        await api.get("/health")
        await api.get("/metrics")
        await api.get("/assets/base.css")
        assert _lines(caplog) == []
        caplog.set_level(logging.DEBUG)
        await api.get("/health")
    assert [line["route"] for line in _lines(caplog)] == ["/health"]


async def test_the_lines_can_be_switched_off(caplog: pytest.LogCaptureFixture) -> None:
    async with http(make_app(FakeClient(says("x")), log_requests=False)) as api:
        await api.post("/v1/chat/completions", json=CHAT)
    assert _lines(caplog) == []
