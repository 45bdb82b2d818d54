"""Background responses: they run, are read and end without a connection."""

import asyncio
import json

import openai
import pytest

from engine.errors import EngineDied
from engine.protocol import AbortReason, EngineRequest, RequestOutput
from server.context import ServerContext
from server.state.records import fail_interrupted
from tests.helpers.asgi import RawRequest
from tests.helpers.deadline import DEADLINE_S
from tests.helpers.fake_client import MODEL, FakeClient, Step, engine_info
from tests.helpers.response_state import PATH, hangs, make_engine, official, state_app, until_ended

pytestmark = pytest.mark.fast


async def test_a_background_response_is_queued_at_once_and_comes_to_its_end() -> None:
    async with official(state_app(make_engine())) as client:
        queued = await client.responses.create(model=MODEL, input="hi", background=True)
        assert (queued.status, queued.background, queued.output) == ("queued", True, [])
        ended = await until_ended(client, queued.id)
        assert (ended.status, ended.output_text) == ("completed", "Hello.")
        assert (await client.responses.cancel(queued.id)).status == "completed"


async def test_a_running_response_shows_itself_and_cannot_be_continued() -> None:
    engine = FakeClient(hangs, engine_info(max_model_len=4000))
    app = state_app(engine)
    async with official(app) as client:
        queued = await client.responses.create(model=MODEL, input="hi", background=True)
        async with asyncio.timeout(DEADLINE_S):
            while (await client.responses.retrieve(queued.id)).status != "in_progress":
                await asyncio.sleep(0.001)
        with pytest.raises(openai.BadRequestError, match="wait until it has ended"):
            await client.responses.create(model=MODEL, input="x", previous_response_id=queued.id)
        canceled = await client.responses.cancel(queued.id)
        assert canceled.status == "cancelled"
        assert engine.num_open == 0
        assert engine.streams[0].abort_reason is AbortReason.CLIENT_GONE
        assert (await client.responses.retrieve(queued.id)).status == "cancelled"
        assert (await client.responses.cancel(queued.id)).status == "cancelled"
        with pytest.raises(openai.BadRequestError, match="is cancelled; continue the one before it"):
            await client.responses.create(model=MODEL, input="x", previous_response_id=queued.id)
    app.state.context.runs.check()


async def test_deleting_a_running_response_ends_it() -> None:
    engine = FakeClient(hangs)
    async with official(state_app(engine)) as client:
        queued = await client.responses.create(model=MODEL, input="hi", background=True)
        await client.responses.delete(queued.id)
        assert engine.num_open == 0
        with pytest.raises(openai.NotFoundError):
            await client.responses.retrieve(queued.id)


async def test_a_response_with_a_connection_is_canceled_by_closing_it() -> None:
    async with official(state_app(make_engine())) as client:
        response = await client.responses.create(model=MODEL, input="hi")
        with pytest.raises(openai.BadRequestError, match="Cannot cancel a synchronous response"):
            await client.responses.cancel(response.id)
        with pytest.raises(openai.NotFoundError):
            await client.responses.cancel("resp_0")


async def test_a_background_stream_can_be_read_from_every_event() -> None:
    async with official(state_app(make_engine())) as client:
        stream = await client.responses.create(model=MODEL, input="hi", background=True, stream=True)
        events = [event async for event in stream]
        assert [event.type for event in events][:2] == ["response.created", "response.in_progress"]
        assert [event.response.status for event in events[:2]] == ["queued", "in_progress"]  # type: ignore[union-attr]
        response_id = events[0].response.id  # type: ignore[union-attr]
        assert [event.sequence_number for event in events] == list(range(len(events)))  # type: ignore[union-attr]
        assert [event async for event in await client.responses.retrieve(response_id, stream=True)] == events
        for after in range(len(events)):
            rest = await client.responses.retrieve(response_id, stream=True, starting_after=after)
            assert [event async for event in rest] == events[after + 1 :]
        with pytest.raises(openai.BadRequestError, match=f"the last event so far is {len(events) - 1}"):
            await client.responses.retrieve(response_id, stream=True, starting_after=len(events))


async def test_a_background_stream_goes_on_without_its_client() -> None:
    engine = make_engine("Hello, world!")
    app = state_app(engine)
    body = {"input": "hi", "background": True, "stream": True}
    async with RawRequest(app, PATH, body) as request:
        await request.until(lambda: b"response.created" in request.body)
        request.disconnect()
        await request.ended()
    event = json.loads(request.body.split(b"data: ")[1].split(b"\n")[0])
    async with official(app) as client:
        assert (await until_ended(client, event["response"]["id"])).output_text == "Hello, world!"


async def test_events_that_are_not_held_are_told_of() -> None:
    async with official(state_app(make_engine())) as client:
        response = await client.responses.create(model=MODEL, input="hi")
        with pytest.raises(openai.BadRequestError, match="are not kept: only those of background responses are"):
            await client.responses.retrieve(response.id, stream=True)
        with pytest.raises(openai.NotFoundError):
            await client.responses.retrieve("resp_0", stream=True)


async def test_a_slow_client_is_cut_off_and_its_response_is_not() -> None:
    app = state_app(make_engine("Hello, world! " * 20), stream_log_bytes=8000)
    body = {"input": "hi", "background": True, "stream": True}
    async with RawRequest(app, PATH, body) as request:
        request.pause()
        await request.until(lambda: request.is_paused)
        response_id = json.loads(request.body.split(b"data: ")[1].split(b"\n")[0])["response"]["id"]
        async with official(app) as client:
            assert (await until_ended(client, response_id)).status == "completed"
            request.resume()
            await request.ended()
            assert b'event: error\ndata: {"type":"error","code":"events_dropped"' in request.body
            assert (await client.responses.retrieve(response_id)).status == "completed"


@pytest.mark.parametrize("num_tokens", [0, 2])
async def test_a_background_response_that_breaks_is_failed(num_tokens: int) -> None:
    def script(request: EngineRequest) -> list[Step]:
        return [*[RequestOutput(id=request.id, new_ids=[72])] * num_tokens, EngineDied("the engine ended")]

    async with official(state_app(FakeClient(script))) as client:
        queued = await client.responses.create(model=MODEL, input="hi", background=True)
        failed = await until_ended(client, queued.id)
        assert (failed.status, failed.error.code, failed.error.message) == (
            "failed",
            "server_error",
            "the engine ended",
        )
        with pytest.raises(openai.BadRequestError, match="is failed"):
            await client.responses.create(model=MODEL, input="x", previous_response_id=queued.id)


async def test_a_stream_that_breaks_is_stored_as_failed() -> None:
    def script(request: EngineRequest) -> list[Step]:
        return [RequestOutput(id=request.id, new_ids=[72]), EngineDied("the engine ended")]

    async with official(state_app(FakeClient(script))) as client:
        stream = await client.responses.create(model=MODEL, input="hi", stream=True)
        events = [event async for event in stream]
        assert events[-1].type == "response.failed"
        assert (await client.responses.retrieve(events[-1].response.id)).status == "failed"


async def test_a_full_queue_refuses_a_background_response_and_stores_nothing() -> None:
    engine = make_engine()
    engine.capacity = 0
    app = state_app(engine)
    async with official(app) as client:
        with pytest.raises(openai.RateLimitError):
            await client.responses.create(model=MODEL, input="hi", background=True)
    assert await app.state.context.store.with_states("response", ["queued"]) == []


async def test_a_restart_marks_what_ran_as_failed() -> None:
    engine = FakeClient(hangs)
    before = state_app(engine)
    async with official(before) as client:
        queued = await client.responses.create(model=MODEL, input="hi", background=True)
    context: ServerContext = before.state.context
    after = state_app(make_engine())
    after.state.context.store = context.store
    assert await fail_interrupted(context.store) == 1
    async with official(after) as client:
        failed = await client.responses.retrieve(queued.id)
        assert (failed.status, failed.error and failed.error.code) == ("failed", "server_error")
    assert await fail_interrupted(context.store) == 0
