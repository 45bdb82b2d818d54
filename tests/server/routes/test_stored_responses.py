"""Stored responses, background responses and conversations, mostly through the official client."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import openai
import pytest
from fastapi import FastAPI
from openai import AsyncOpenAI

from engine.errors import EngineDied
from engine.protocol import AbortReason, EngineRequest, FinishReason, RequestOutput
from server.context import ServerContext
from server.state.records import fail_interrupted
from tests.helpers.asgi import RawRequest
from tests.helpers.fake_client import MODEL, FakeClient, Step, engine_info, http, make_app, says

pytestmark = pytest.mark.fast

TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
PATH = "/v1/responses"
REFERENCE = {"type": "item_reference", "id": "msg_0"}


def _engine(text: str = "Hello.", *, per_step: int = 3, finish: FinishReason = FinishReason.STOP) -> FakeClient:
    return FakeClient(says(text, per_step=per_step, finish=finish), engine_info(max_model_len=4000))


def _hangs(request: EngineRequest) -> list[Step]:
    return [RequestOutput(id=request.id, new_ids=[72, 105]), None]


def _app(engine: FakeClient, **options: Any) -> FastAPI:
    return make_app(engine, chat_template=TEMPLATE, **options)


@contextlib.asynccontextmanager
async def _official(app: FastAPI, key: str = "none") -> AsyncIterator[AsyncOpenAI]:
    async with http(app) as api, AsyncOpenAI(base_url="http://server/v1", api_key=key, http_client=api) as client:
        yield client.with_options(max_retries=0)


def _prompt(engine: FakeClient, number: int = -1) -> str:
    return bytes(token for token in engine.requests[number].prompt_ids if token < 256).decode()


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.001)


async def _ended(client: AsyncOpenAI, response_id: str) -> Any:
    """The response once it is no longer running."""
    async with asyncio.timeout(5):
        while (response := await client.responses.retrieve(response_id)).status in ("queued", "in_progress"):
            await asyncio.sleep(0.001)
    return response


# --- store ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
async def test_a_response_can_be_retrieved_as_it_was_answered(stream: bool) -> None:
    async with _official(_app(_engine())) as client:
        if stream:
            async with client.responses.stream(model=MODEL, input="hi", metadata={"a": "b"}) as events:
                async for _ in events:
                    pass
                answered = (await events.get_final_response()).to_dict()
        else:
            answered = (await client.responses.create(model=MODEL, input="hi", metadata={"a": "b"})).to_dict()
        assert answered["store"] is True
        retrieved = (await client.responses.retrieve(str(answered["id"]))).to_dict()
    for item in answered["output"]:  # type: ignore[union-attr]
        for part in item["content"]:  # type: ignore[index]
            part.pop("parsed", None)  # type: ignore[call-overload, union-attr]
    assert retrieved == answered


async def test_a_deleted_response_is_unknown() -> None:
    async with _official(_app(_engine())) as client:
        response = await client.responses.create(model=MODEL, input="hi")
        await client.responses.delete(response.id)
        with pytest.raises(openai.NotFoundError, match=f"Response with id '{response.id}' not found"):
            await client.responses.retrieve(response.id)
        with pytest.raises(openai.NotFoundError):
            await client.responses.delete(response.id)
        with pytest.raises(openai.NotFoundError):
            await client.responses.input_items.list(response.id)


async def test_what_shall_not_be_stored_is_not() -> None:
    async with _official(_app(_engine())) as client:
        response = await client.responses.create(model=MODEL, input="hi", store=False)
        assert response.to_dict()["store"] is False
        with pytest.raises(openai.NotFoundError):
            await client.responses.retrieve(response.id)
        with pytest.raises(openai.BadRequestError, match=f"Previous response with id '{response.id}' not found"):
            await client.responses.create(model=MODEL, input="hi", previous_response_id=response.id)
        with pytest.raises(openai.BadRequestError, match="background is true and store is false"):
            await client.responses.create(model=MODEL, input="hi", store=False, background=True)


async def test_nothing_of_an_unstored_response_is_on_disk(tmp_path: Any) -> None:
    from server.config import ServerConfig
    from server.store.opening import open_store

    app = _app(_engine("The answer is a riddle."))
    with open_store(ServerConfig(data_dir=str(tmp_path))) as store:
        app.state.context.store = store
        async with http(app) as api:
            for is_stored in (False, True):
                body = {"input": f"My password, {is_stored}: hunter2", "store": is_stored}
                assert (await api.post(PATH, json=body)).status_code == 200
                written = b"".join(path.read_bytes() for path in tmp_path.iterdir())
                assert (b"hunter2" in written) is is_stored
                assert (b"riddle" in written) is is_stored


async def test_a_response_that_is_too_large_says_that_it_is_not_stored() -> None:
    async with _official(_app(_engine(), store_max_bytes=1000)) as client:
        response = await client.responses.create(model=MODEL, input="hi")
        assert response.to_dict()["store"] is False


# --- turns ------------------------------------------------------------------------------------------------------------


async def test_a_chain_is_shown_to_the_model_in_order_and_without_earlier_instructions() -> None:
    engine = _engine()
    async with _official(_app(engine)) as client:
        first = await client.responses.create(model=MODEL, input="one", instructions="Be kind.")
        second = await client.responses.create(model=MODEL, input="two", previous_response_id=first.id)
        third = await client.responses.create(
            model=MODEL, input="three", previous_response_id=second.id, instructions="Be brief."
        )
        assert third.previous_response_id == second.id
        assert _prompt(engine, 1) == "<user>one<assistant>Hello.<user>two<assistant>"
        assert _prompt(engine) == (
            "<system>Be brief.<user>one<assistant>Hello.<user>two<assistant>Hello.<user>three<assistant>"
        )
        listed = [item async for item in client.responses.input_items.list(third.id, order="asc", limit=2)]
        texts = [item.content[0].text for item in listed]  # type: ignore[union-attr]
        assert texts == ["one", "Hello.", "two", "Hello.", "three"]
        newest = await client.responses.input_items.list(third.id, limit=2)
        assert [item.content[0].text for item in newest.data] == ["three", "Hello."]  # type: ignore[union-attr]
        assert newest.has_more
        with pytest.raises(openai.BadRequestError, match="after is 'msg_0'; there is no such item"):
            await client.responses.input_items.list(third.id, after="msg_0")
        counted = await client.responses.input_tokens.count(model=MODEL, input="x", previous_response_id=third.id)
        assert counted.input_tokens > len(_prompt(engine))


async def test_a_chain_with_a_deleted_link_says_which() -> None:
    async with _official(_app(_engine())) as client:
        first = await client.responses.create(model=MODEL, input="one")
        second = await client.responses.create(model=MODEL, input="two", previous_response_id=first.id)
        await client.responses.delete(first.id)
        with pytest.raises(
            openai.BadRequestError, match=f"'{first.id}' not found. It continues '{second.id}'"
        ) as error:
            await client.responses.create(model=MODEL, input="three", previous_response_id=second.id)
        assert (error.value.code, error.value.param) == ("previous_response_not_found", "previous_response_id")
        assert (await client.responses.retrieve(second.id)).output_text == "Hello."


async def test_a_cut_off_answer_can_be_continued() -> None:
    engine = _engine(finish=FinishReason.LENGTH)
    async with _official(_app(engine)) as client:
        first = await client.responses.create(model=MODEL, input="one")
        assert first.status == "incomplete"
        await client.responses.create(model=MODEL, input="two", previous_response_id=first.id)
        assert _prompt(engine) == "<user>one<assistant>Hello.<user>two<assistant>"


async def test_references_stand_for_stored_items() -> None:
    engine = _engine()
    async with _official(_app(engine)) as client:
        first = await client.responses.create(model=MODEL, input="one")
        reference: Any = {"type": "item_reference", "id": first.output[0].id}
        await client.responses.create(model=MODEL, input=[reference, {"role": "user", "content": "two"}])
        assert _prompt(engine) == "<assistant>Hello.<user>two<assistant>"
        with pytest.raises(openai.NotFoundError, match="Item with id 'msg_0' not found"):
            await client.responses.create(model=MODEL, input=[{"type": "item_reference", "id": "msg_0"}])


# --- background -------------------------------------------------------------------------------------------------------


async def test_a_background_response_is_queued_at_once_and_comes_to_its_end() -> None:
    async with _official(_app(_engine())) as client:
        queued = await client.responses.create(model=MODEL, input="hi", background=True)
        assert (queued.status, queued.background, queued.output) == ("queued", True, [])
        ended = await _ended(client, queued.id)
        assert (ended.status, ended.output_text) == ("completed", "Hello.")
        assert (await client.responses.cancel(queued.id)).status == "completed"


async def test_a_running_response_shows_itself_and_cannot_be_continued() -> None:
    engine = FakeClient(_hangs, engine_info(max_model_len=4000))
    app = _app(engine)
    async with _official(app) as client:
        queued = await client.responses.create(model=MODEL, input="hi", background=True)
        async with asyncio.timeout(5):
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
    engine = FakeClient(_hangs)
    async with _official(_app(engine)) as client:
        queued = await client.responses.create(model=MODEL, input="hi", background=True)
        await client.responses.delete(queued.id)
        assert engine.num_open == 0
        with pytest.raises(openai.NotFoundError):
            await client.responses.retrieve(queued.id)


async def test_a_response_with_a_connection_is_canceled_by_closing_it() -> None:
    async with _official(_app(_engine())) as client:
        response = await client.responses.create(model=MODEL, input="hi")
        with pytest.raises(openai.BadRequestError, match="Cannot cancel a synchronous response"):
            await client.responses.cancel(response.id)
        with pytest.raises(openai.NotFoundError):
            await client.responses.cancel("resp_0")


async def test_a_background_stream_can_be_read_from_every_event() -> None:
    async with _official(_app(_engine())) as client:
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
    engine = _engine("Hello, world!")
    app = _app(engine)
    body = {"input": "hi", "background": True, "stream": True}
    async with RawRequest(app, PATH, body) as request:
        await request.until(lambda: b"response.created" in request.body)
        request.disconnect()
        await request.ended()
    event = json.loads(request.body.split(b"data: ")[1].split(b"\n")[0])
    async with _official(app) as client:
        assert (await _ended(client, event["response"]["id"])).output_text == "Hello, world!"


async def test_events_that_are_not_held_are_told_of() -> None:
    async with _official(_app(_engine())) as client:
        response = await client.responses.create(model=MODEL, input="hi")
        with pytest.raises(openai.BadRequestError, match="are not held: only a background response's are"):
            await client.responses.retrieve(response.id, stream=True)
        with pytest.raises(openai.NotFoundError):
            await client.responses.retrieve("resp_0", stream=True)


async def test_a_slow_client_is_cut_off_and_its_response_is_not() -> None:
    app = _app(_engine("Hello, world! " * 20), stream_log_bytes=8000)
    body = {"input": "hi", "background": True, "stream": True}
    async with RawRequest(app, PATH, body) as request:
        request.pause()
        await request.until(lambda: request.is_paused)
        response_id = json.loads(request.body.split(b"data: ")[1].split(b"\n")[0])["response"]["id"]
        async with _official(app) as client:
            assert (await _ended(client, response_id)).status == "completed"
            request.resume()
            await request.ended()
            assert b'event: error\ndata: {"type":"error","code":"events_dropped"' in request.body
            assert (await client.responses.retrieve(response_id)).status == "completed"


@pytest.mark.parametrize("num_tokens", [0, 2])
async def test_a_background_response_that_breaks_is_failed(num_tokens: int) -> None:
    def script(request: EngineRequest) -> list[Step]:
        return [*[RequestOutput(id=request.id, new_ids=[72])] * num_tokens, EngineDied("the engine ended")]

    async with _official(_app(FakeClient(script))) as client:
        queued = await client.responses.create(model=MODEL, input="hi", background=True)
        failed = await _ended(client, queued.id)
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

    async with _official(_app(FakeClient(script))) as client:
        stream = await client.responses.create(model=MODEL, input="hi", stream=True)
        events = [event async for event in stream]
        assert events[-1].type == "response.failed"
        assert (await client.responses.retrieve(events[-1].response.id)).status == "failed"


async def test_a_full_queue_refuses_a_background_response_and_stores_nothing() -> None:
    engine = _engine()
    engine.capacity = 0
    app = _app(engine)
    async with _official(app) as client:
        with pytest.raises(openai.RateLimitError):
            await client.responses.create(model=MODEL, input="hi", background=True)
    assert await app.state.context.store.with_states("response", ["queued"]) == []


async def test_a_restart_marks_what_ran_as_failed() -> None:
    engine = FakeClient(_hangs)
    before = _app(engine)
    async with _official(before) as client:
        queued = await client.responses.create(model=MODEL, input="hi", background=True)
    context: ServerContext = before.state.context
    after = _app(_engine())
    after.state.context.store = context.store
    assert await fail_interrupted(context.store) == 1
    async with _official(after) as client:
        failed = await client.responses.retrieve(queued.id)
        assert (failed.status, failed.error and failed.error.code) == ("failed", "server_error")
    assert await fail_interrupted(context.store) == 0


# --- conversations ----------------------------------------------------------------------------------------------------


async def test_a_conversation_grows_with_its_responses() -> None:
    engine = _engine()
    async with _official(_app(engine)) as client:
        conversation = await client.conversations.create(
            metadata={"topic": "x"}, items=[{"role": "system", "content": "Be kind."}]
        )
        for text, stream in [("one", False), ("two", True)]:
            answer = await client.responses.create(model=MODEL, input=text, conversation=conversation.id, stream=stream)
            if stream:
                events = [event async for event in answer]  # type: ignore[union-attr]
                assert events[-1].response.conversation.id == conversation.id
        assert _prompt(engine) == "<system>Be kind.<user>one<assistant>Hello.<user>two<assistant>"
        items = [item async for item in client.conversations.items.list(conversation.id, order="asc", limit=2)]
        assert [item.content[0].text for item in items] == ["Be kind.", "one", "Hello.", "two", "Hello."]  # type: ignore[union-attr]
        await client.responses.create(model=MODEL, input="three", conversation={"id": conversation.id}, store=False)
        assert len((await client.conversations.items.list(conversation.id)).data) == 7


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_at_the_end_leaves_response_and_conversation_in_step(
    stream: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = _app(_engine())
    store = app.state.context.store
    is_storing, may_go_on = asyncio.Event(), asyncio.Event()
    put = store.put

    async def slow_put(*arguments: Any) -> bool:
        is_storing.set()
        await may_go_on.wait()
        return bool(await put(*arguments))

    async with _official(app) as client:
        conversation = await client.conversations.create()
        monkeypatch.setattr(store, "put", slow_put)
        body = {"input": "hi", "conversation": conversation.id, "stream": stream}
        async with RawRequest(app, PATH, body) as request:
            await asyncio.wait_for(is_storing.wait(), 5)
            request.disconnect()
            await request.ended()
        may_go_on.set()
        async with asyncio.timeout(5):
            while len((await client.conversations.items.list(conversation.id)).data) != 2:
                await asyncio.sleep(0.001)


async def test_conversations_are_created_retrieved_updated_and_deleted() -> None:
    async with _official(_app(_engine())) as client:
        conversation = await client.conversations.create(metadata={"topic": "x"})
        assert await client.conversations.retrieve(conversation.id) == conversation
        updated = await client.conversations.update(conversation.id, metadata={"topic": "y"})
        assert (updated.metadata, updated.created_at) == ({"topic": "y"}, conversation.created_at)
        deleted = await client.conversations.delete(conversation.id)
        assert (deleted.id, deleted.deleted) == (conversation.id, True)
        for gone in (client.conversations.retrieve, client.conversations.delete, client.conversations.items.list):
            with pytest.raises(openai.NotFoundError, match=f"Conversation with id '{conversation.id}' not found"):
                await gone(conversation.id)
        with pytest.raises(openai.NotFoundError):
            await client.responses.create(model=MODEL, input="x", conversation=conversation.id)


async def test_items_of_a_conversation_are_created_retrieved_and_deleted() -> None:
    engine = _engine()
    async with _official(_app(engine)) as client:
        conversation = await client.conversations.create()
        created = await client.conversations.items.create(
            conversation.id, items=[{"role": "user", "content": "one"}, {"role": "user", "content": "two"}]
        )
        first, second = created.data
        assert first.id is not None
        assert await client.conversations.items.retrieve(first.id, conversation_id=conversation.id) == first
        assert (
            await client.conversations.items.delete(first.id, conversation_id=conversation.id)
        ).id == conversation.id
        with pytest.raises(openai.NotFoundError):
            await client.conversations.items.retrieve(first.id, conversation_id=conversation.id)
        assert (await client.conversations.items.list(conversation.id)).data == [second]
        await client.responses.create(model=MODEL, input="three", conversation=conversation.id)
        assert _prompt(engine) == "<user>two<user>three<assistant>"


async def test_a_response_of_a_conversation_is_continued_in_it() -> None:
    async with _official(_app(_engine())) as client:
        conversation = await client.conversations.create()
        response = await client.responses.create(model=MODEL, input="one", conversation=conversation.id)
        with pytest.raises(openai.BadRequestError, match=f"give conversation: '{conversation.id}"):
            await client.responses.create(model=MODEL, input="two", previous_response_id=response.id)
        with pytest.raises(openai.BadRequestError, match="are both given"):
            await client.responses.create(
                model=MODEL, input="two", previous_response_id=response.id, conversation=conversation.id
            )


# --- keys, faults -----------------------------------------------------------------------------------------------------


async def test_what_one_key_stored_does_not_exist_for_another() -> None:
    app = _app(_engine(), api_key=("ann", "ben"))
    async with _official(app, "ann") as ann:
        response = await ann.responses.create(model=MODEL, input="hi", background=True)
        await _ended(ann, response.id)
        conversation = await ann.conversations.create(items=[{"role": "user", "content": "one"}])
        item = (await ann.conversations.items.list(conversation.id)).data[0]
    async with _official(app, "ben") as ben:
        responses, conversations = ben.responses, ben.conversations
        for attempt in (
            responses.retrieve(response.id),
            responses.retrieve(response.id, stream=True),
            responses.delete(response.id),
            responses.cancel(response.id),
            responses.input_items.list(response.id),
            conversations.retrieve(conversation.id),
            conversations.update(conversation.id, metadata={}),
            conversations.delete(conversation.id),
            conversations.items.list(conversation.id),
            conversations.items.create(conversation.id, items=[{"role": "user", "content": "x"}]),
            conversations.items.retrieve(item.id or "", conversation_id=conversation.id),
            conversations.items.delete(item.id or "", conversation_id=conversation.id),
            responses.create(model=MODEL, input="x", conversation=conversation.id),
            responses.create(model=MODEL, input=[{"type": "item_reference", "id": item.id or ""}]),
        ):
            with pytest.raises(openai.NotFoundError):
                await attempt
        with pytest.raises(openai.BadRequestError, match="not found"):
            await responses.create(model=MODEL, input="x", previous_response_id=response.id)
    async with _official(app, "ann") as ann:
        assert (await ann.responses.retrieve(response.id)).output_text == "Hello."


@pytest.mark.parametrize(
    ("method", "path", "body", "message"),
    [
        ("GET", f"{PATH}/resp_0?starting_after=1", None, "starting_after needs stream=true"),
        ("GET", f"{PATH}/resp_0?stream=maybe", None, "stream is 'maybe'; it must be true or false"),
        ("GET", f"{PATH}/resp_0/input_items?limit=101", None, "limit is 101"),
        ("GET", f"{PATH}/resp_0/input_items?order=up", None, "order is 'up'"),
        ("POST", f"{PATH}/compact", {}, "this server does not compact"),
        ("POST", "/v1/conversations", {"items": [{"role": "user", "content": "x"}] * 21}, "it must have at most 20"),
        ("POST", "/v1/conversations", {"metadata": {"k": "x" * 513}}, "metadata is"),
        ("POST", "/v1/conversations/conv_0/items", {"items": []}, "it must have at least 1"),
        ("POST", PATH, {"input": "x", "conversation": {}}, "conversation.id is missing"),
    ],
)
async def test_faults_are_told(method: str, path: str, body: Any, message: str) -> None:
    async with http(_app(_engine())) as api:
        answer: httpx.Response = await api.request(method, path, json=body)
    assert answer.status_code == 400
    assert message in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        (PATH, {"input": [{"role": "user", "content": "x"}, REFERENCE]}, "input[1]"),
        (PATH, {"input": "x", "conversation": "conv_0"}, "conversation"),
        ("/v1/conversations", {"items": [REFERENCE]}, "items[0]"),
        ("/v1/conversations/conv_0/items", {"items": [{"role": "user", "content": "x"}]}, None),
    ],
)
async def test_what_is_not_stored_is_told_with_the_field_that_names_it(path: str, body: Any, param: str | None) -> None:
    async with http(_app(_engine())) as api:
        answer = await api.post(path, json=body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (404, param)
