"""Resumable streams over HTTP: what comes back, to whom, and when the engine is left alone."""

import asyncio
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import EngineDied
from engine.protocol import AbortReason, EngineRequest, FinishReason, RequestOutput
from server.keys.caller import key_owner
from tests.helpers.asgi import DEFAULT_HEADERS, RawRequest
from tests.helpers.deadline import DEADLINE_S, until
from tests.helpers.fake_client import FakeClient, Step, http, make_app, says
from tests.helpers.loop_clock import LoopClock
from tests.helpers.sse import contents, events

pytestmark = pytest.mark.fast

CHAT_PATH = "/v1/chat/completions"
CHAT = {"messages": [{"role": "user", "content": "hi"}], "stream": True, "resumable": True}
TEXT = {"prompt": "hi", "stream": True, "resumable": True}
RESPONSE_PATH = "/v1/responses"
GRACE_S = 1000.0
RESPONSE = {"input": "hi", "stream": True, "resumable": True}
_ID = re.compile(rb"^id: (stream_[0-9a-f]{48}):(\d+)$", re.MULTILINE)


def _without_ids(body: bytes) -> str:
    return re.sub(rb"^id: .*\n", b"", body, flags=re.MULTILINE).decode()


def _hangs(request: EngineRequest) -> list[Step]:
    return [RequestOutput(id=request.id, new_ids=[72]), None]


def _numbers(body: bytes) -> list[int]:
    return [int(number) for _, number in _ID.findall(body)]


@pytest.mark.parametrize(("path", "body"), [(CHAT_PATH, CHAT), ("/v1/completions", TEXT), (RESPONSE_PATH, RESPONSE)])
async def test_a_resumable_stream_is_the_ordinary_one_with_ids(path: str, body: dict[str, Any]) -> None:
    client = FakeClient(says("Hello!", finish=FinishReason.STOP))
    async with http(make_app(client)) as api:
        plain = await api.post(path, json={**body, "resumable": False})
        response = await api.post(path, json=body)
    assert b"id: " not in plain.content
    assert "x-stream-id" not in plain.headers
    assert response.headers["content-type"] == plain.headers["content-type"]
    ids = _ID.findall(response.content)
    assert {stream_id.decode() for stream_id, _ in ids} == {response.headers["x-stream-id"]}
    assert _numbers(response.content) == list(range(1, len(ids) + 1))
    hide = re.compile(r'"(id|item_id|created|created_at|completed_at)":("[^"]*"|\d+)')
    assert hide.sub("", _without_ids(response.content)) == hide.sub("", plain.text)


@pytest.mark.parametrize(("post_path", "body"), [(CHAT_PATH, CHAT), (RESPONSE_PATH, RESPONSE)])
async def test_every_cut_can_be_mended_in_each_of_three_ways(post_path: str, body: dict[str, Any]) -> None:
    client = FakeClient(says("Hello, world!", per_step=2, finish=FinishReason.STOP))
    app = make_app(client)
    async with http(app) as api:
        whole = await api.post(post_path, json=body)
        path = f"/v1/streams/{whole.headers['x-stream-id']}"
        blocks = whole.content.split(b"\n\n")[:-1]
        for cut in range(1, len(blocks)):
            match = _ID.search(blocks[cut - 1])
            assert match is not None
            rest = b"".join(block + b"\n\n" for block in blocks[cut:])
            last = {"last-event-id": f"{match[1].decode()}:{match[2].decode()}"}
            assert (await api.get(path, headers=last)).content == rest
            assert (await api.get(path, params={"starting_after": match[2].decode()})).content == rest
            assert (await api.post(post_path, json=body, headers=last)).content == rest
        assert (await api.get(path)).content == whole.content
        metrics = (await api.get("/metrics")).text
    assert len(client.requests) == 1
    assert f'headrace_streams_resumed_total{{model_name="org/tiny"}} {3 * (len(blocks) - 1) + 1}.0' in metrics


@settings(max_examples=30, deadline=None)
@given(cuts=st.lists(st.tuples(st.integers(0, 6), st.integers(0, 8)), max_size=6), num_choices=st.integers(1, 2))
def test_any_cuts_of_a_live_stream_leave_nothing_out_and_nothing_twice(
    cuts: list[tuple[int, int]], num_choices: int
) -> None:
    """cuts: events that a connection sees at least, and rounds of the loop until the next one."""

    async def scenario() -> None:
        app = make_app(FakeClient(says("Hello, world!", per_step=2, finish=FinishReason.STOP)))
        body, path, method = {**CHAT, "n": num_choices}, CHAT_PATH, "POST"
        headers: tuple[tuple[bytes, bytes], ...] = DEFAULT_HEADERS
        got = b""
        for num_events, away in [*cuts, (1000, 0)]:
            async with RawRequest(app, path, body, headers=headers, method=method) as request:
                wanted = max(1, num_events) if not got else num_events
                await request.until(lambda: request.has_ended or len(_ID.findall(request.body)) >= wanted)  # noqa: B023
                request.disconnect()
                await request.ended()
            got += request.body
            for _ in range(away):
                await asyncio.sleep(0)
            stream_id, number = _ID.findall(got)[-1]
            headers = (*DEFAULT_HEADERS, (b"last-event-id", stream_id + b":" + number))
            path, method = f"/v1/streams/{stream_id.decode()}", "GET"
        async with http(app) as api:
            assert (await api.get(path)).content == got
        assert got.endswith(b"data: [DONE]\n\n")
        app.state.context.runs.check()

    asyncio.run(asyncio.wait_for(scenario(), DEADLINE_S))


async def test_a_client_that_has_it_all_gets_204() -> None:
    async with http(make_app(FakeClient(says("Hi")))) as api:
        whole = await api.post(CHAT_PATH, json=CHAT)
        stream_id, number = _ID.findall(whole.content)[-1]
        last = {"last-event-id": f"{stream_id.decode()}:{number.decode()}"}
        assert (await api.get(f"/v1/streams/{stream_id.decode()}", headers=last)).status_code == 204


async def test_the_engine_goes_on_without_the_client_until_the_grace_is_over() -> None:
    clock, client = LoopClock(), FakeClient(_hangs)
    app = make_app(client, stream_resume_grace=GRACE_S)
    async with RawRequest(app, CHAT_PATH, CHAT) as request:
        await request.until(lambda: b'"content":"H"' in request.body)
        request.disconnect()
        await request.ended()
    assert client.num_open == 1
    stream_id = _ID.findall(request.body)[0][0].decode()
    async with RawRequest(app, f"/v1/streams/{stream_id}", {}, method="GET", query="starting_after=1") as again:
        await again.until(lambda: b'"content":"H"' in again.body)
        clock.put_ahead(GRACE_S + 1)  # it does not run while somebody reads
        await asyncio.sleep(0.001)
        assert client.num_open == 1
        again.disconnect()
        await again.ended()
    assert _numbers(again.body) == [2]
    assert client.num_open == 1
    clock.put_ahead(GRACE_S + 1)
    await until(lambda: not client.num_open)
    assert client.streams[0].abort_reason is AbortReason.CLIENT_GONE
    async with http(app) as api:
        gone = await api.get(f"/v1/streams/{stream_id}")
        metrics = (await api.get("/metrics")).text
    assert (gone.status_code, gone.json()["error"]["code"]) == (404, "stream_not_found")
    assert 'headrace_stream_log_bytes{model_name="org/tiny"} 0.0' in metrics
    assert 'headrace_stream_runs{model_name="org/tiny"} 0.0' in metrics
    assert 'finished_reason="abort",model_name="org/tiny"} 1.0' in metrics


async def test_deleting_a_stream_frees_the_engine_at_once() -> None:
    client = FakeClient(_hangs)
    app = make_app(client)
    async with RawRequest(app, CHAT_PATH, CHAT) as request, http(app) as api:
        await request.until(lambda: b'"content":"H"' in request.body)
        stream_id = _ID.findall(request.body)[0][0].decode()
        deleted = await api.delete(f"/v1/streams/{stream_id}")
        assert client.num_open == 0
        await request.ended()
    assert deleted.json() == {"id": stream_id, "object": "stream", "deleted": True}
    assert b'"code":"stream_deleted"' in request.body


async def test_a_client_that_leaves_frees_the_engine_soon_unless_it_comes_back() -> None:
    clock, client = LoopClock(), FakeClient(_hangs)
    app = make_app(client, stream_resume_grace=GRACE_S)
    async with RawRequest(app, CHAT_PATH, CHAT) as request, http(app) as api:
        await request.until(lambda: b'"content":"H"' in request.body)
        path = f"/v1/streams/{_ID.findall(request.body)[0][0].decode()}"
        left = await api.delete(path, params={"grace": "15"})
        assert left.json() == {"id": path.rpartition("/")[2], "object": "stream", "deleted": False}
        refused = await api.delete(path, params={"grace": "soon"})
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "grace")
        request.disconnect()
        await request.ended()
        clock.put_ahead(14)
        await asyncio.sleep(0.001)
        assert client.num_open == 1
        clock.put_ahead(2)
        await until(lambda: not client.num_open)
        assert (await api.get(path)).status_code == 404


async def test_the_end_of_the_engine_is_an_error_event_for_who_comes_back_too() -> None:
    def script(request: EngineRequest) -> list[Step]:
        return [RequestOutput(id=request.id, new_ids=[72]), EngineDied("the engine ended; send it again")]

    async with http(make_app(FakeClient(script))) as api:
        whole = await api.post(CHAT_PATH, json=CHAT)
        again = await api.get(f"/v1/streams/{whole.headers['x-stream-id']}")
    assert whole.content == again.content
    *_, error, end = events(_without_ids(whole.content))
    assert (error["error"]["code"], end) == ("engine_died", "[DONE]")


async def test_what_the_engine_refuses_is_an_ordinary_error_and_begins_nothing() -> None:
    client = FakeClient(says("Hi"))
    client.capacity = 0
    app = make_app(client)
    async with http(app) as api:
        full = await api.post(CHAT_PATH, json=CHAT)
        assert (full.status_code, full.headers["retry-after"]) == (429, "2")
    assert app.state.context.runs.used_bytes == 0


async def test_an_error_before_the_first_token_is_an_ordinary_error() -> None:
    def script(request: EngineRequest) -> list[Step]:
        return [RequestOutput(id=request.id, finish_reason=FinishReason.ERROR, error="its logits are not finite")]

    async with http(make_app(FakeClient(script))) as api:
        response = await api.post(CHAT_PATH, json=CHAT)
    assert (response.status_code, response.json()["error"]["message"]) == (500, "its logits are not finite")


async def test_silence_is_filled_with_comments() -> None:
    app = make_app(FakeClient(_hangs), sse_ping_interval=0.01)
    async with RawRequest(app, CHAT_PATH, CHAT) as request:
        await request.until(lambda: request.body.count(b": ping\n\n") >= 3)


async def test_a_stream_belongs_to_its_key() -> None:
    app = make_app(FakeClient(says("Hi")), api_key=("ann", "ben"))
    async with http(app, authorization="Bearer ann") as ann, http(app, **{"x-api-key": "ben"}) as ben:
        whole = await ann.post(CHAT_PATH, json=CHAT)
        path = f"/v1/streams/{whole.headers['x-stream-id']}"
        assert (await ben.get(path)).status_code == 404
        assert (await ben.delete(path)).status_code == 404
        assert (await ann.get(path, headers={"authorization": "", "x-api-key": "ann"})).content == whole.content
    assert key_owner(b"ann") != key_owner(b"ben")
    assert "ann" not in key_owner(b"ann")


@pytest.mark.parametrize(
    ("headers", "query", "message", "param"),
    [
        ({"last-event-id": "7"}, {}, "it must be the id of an event", None),
        ({"last-event-id": f"stream_{'0' * 48}:1"}, {}, "belongs to another stream", None),
        ({}, {"starting_after": "-1"}, "it must be a whole number", "starting_after"),
        ({}, {"starting_after": "1000"}, "event 1000 has not happened yet; the stream has 5 so far", "starting_after"),
    ],
)
async def test_places_that_are_none_are_refused(
    headers: dict[str, str], query: dict[str, str], message: str, param: str | None
) -> None:
    async with http(make_app(FakeClient(says("Hi")))) as api:
        whole = await api.post(CHAT_PATH, json=CHAT)
        refused = await api.get(f"/v1/streams/{whole.headers['x-stream-id']}", headers=headers, params=query)
    assert refused.status_code == 400
    assert message in refused.json()["error"]["message"]
    assert refused.json()["error"]["param"] == param


@pytest.mark.parametrize(("path", "body"), [("/v1/completions", TEXT), (RESPONSE_PATH, RESPONSE)])
async def test_a_request_gets_no_stream_of_another_route(path: str, body: dict[str, Any]) -> None:
    client = FakeClient(says("Hi"))
    async with http(make_app(client)) as api:
        whole = await api.post(CHAT_PATH, json=CHAT)
        refused = await api.post(path, json=body, headers={"last-event-id": f"{whole.headers['x-stream-id']}:1"})
    assert refused.status_code == 400
    assert "/v1/chat/completions" in refused.json()["error"]["message"]
    assert len(client.requests) == 1


async def test_a_resumable_response_is_stored_at_its_end_without_its_client() -> None:
    steps = says("Hello.", per_step=2, finish=FinishReason.STOP)
    app = make_app(FakeClient(steps))
    async with RawRequest(app, RESPONSE_PATH, RESPONSE) as request:
        await request.until(lambda: b"response.created" in request.body)
        request.disconnect()
        await request.ended()
    match = re.search(rb'"id":"(resp_[0-9a-f]+)"', request.body)
    assert match is not None
    async with http(app) as api:
        await api.get(f"/v1/streams/{_ID.findall(request.body)[0][0].decode()}")  # to its end
        stored = (await api.get(f"{RESPONSE_PATH}/{match[1].decode()}")).json()
    assert stored["status"] == "completed"
    assert stored["output"][0]["content"][0]["text"] == "Hello."


async def test_a_request_whose_stream_is_gone_does_not_begin_again() -> None:
    client = FakeClient(says("Hi"))
    async with http(make_app(client)) as api:
        last = {"last-event-id": f"stream_{'0' * 48}:1"}
        gone = await api.post(CHAT_PATH, json=CHAT, headers=last)
        assert (gone.status_code, client.requests) == (404, [])
        assert (await api.post(CHAT_PATH, json={**CHAT, "resumable": False}, headers=last)).status_code == 200


@pytest.mark.parametrize(
    ("options", "body", "code"),
    [
        ({"stream_resume_grace": 0.0}, CHAT, "unsupported_parameter"),
        ({}, {**CHAT, "stream": False}, None),
        ({"stream_resume_grace": 0.0}, RESPONSE, "unsupported_parameter"),
        ({}, {**RESPONSE, "stream": False}, None),
        ({}, {**RESPONSE, "background": True}, None),
    ],
)
async def test_what_cannot_be_resumed_is_refused(options: dict[str, Any], body: dict[str, Any], code: str) -> None:
    path = RESPONSE_PATH if "input" in body else CHAT_PATH
    async with http(make_app(FakeClient(says("Hi")), **options)) as api:
        error = (await api.post(path, json=body)).json()["error"]
    assert (error["param"], error["code"]) == ("resumable", code)


async def test_dropped_events_are_told_of() -> None:
    client = FakeClient(says("Hello, world! " * 8))
    app = make_app(client, stream_log_bytes=6000)
    async with http(app) as api:
        whole = await api.post(CHAT_PATH, json=CHAT)
        assert contents(events(_without_ids(whole.content))) == "Hello, world! " * 8
        gone = await api.get(f"/v1/streams/{whole.headers['x-stream-id']}")
    assert (gone.status_code, gone.json()["error"]["code"]) == (410, "events_dropped")


async def test_a_client_that_goes_before_it_knows_the_stream_ends_it() -> None:
    """Nobody could come back to it."""
    client = FakeClient(lambda _: [None])
    app = make_app(client)
    async with RawRequest(app, CHAT_PATH, CHAT) as request:
        await request.until(lambda: client.num_open == 1)
        request.disconnect()
        await request.ended()
    assert client.num_open == 0
    assert client.streams[0].abort_reason is AbortReason.CLIENT_GONE
    assert app.state.context.runs.used_bytes == 0
