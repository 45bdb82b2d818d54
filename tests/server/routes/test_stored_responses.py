"""Stored responses: retrieved, continued, referred to and deleted, and by whom."""

from typing import Any

import httpx
import openai
import pytest

from engine.protocol import FinishReason
from tests.helpers.fake_client import MODEL, http, prompt_text
from tests.helpers.response_state import PATH, REFERENCE, make_engine, official, state_app, until_ended

pytestmark = pytest.mark.fast


# --- store ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
async def test_a_response_can_be_retrieved_as_it_was_answered(stream: bool) -> None:
    async with official(state_app(make_engine())) as client:
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
    async with official(state_app(make_engine())) as client:
        response = await client.responses.create(model=MODEL, input="hi")
        await client.responses.delete(response.id)
        with pytest.raises(openai.NotFoundError, match=f"Response with id '{response.id}' not found"):
            await client.responses.retrieve(response.id)
        with pytest.raises(openai.NotFoundError):
            await client.responses.delete(response.id)
        with pytest.raises(openai.NotFoundError):
            await client.responses.input_items.list(response.id)


async def test_what_shall_not_be_stored_is_not() -> None:
    async with official(state_app(make_engine())) as client:
        response = await client.responses.create(model=MODEL, input="hi", store=False)
        assert response.to_dict()["store"] is False
        with pytest.raises(openai.NotFoundError):
            await client.responses.retrieve(response.id)
        with pytest.raises(openai.BadRequestError, match=f"Previous response with id '{response.id}' not found"):
            await client.responses.create(model=MODEL, input="hi", previous_response_id=response.id)
        with pytest.raises(openai.BadRequestError, match="background is true and store is false"):
            await client.responses.create(model=MODEL, input="hi", store=False, background=True)


async def test_nothing_of_an_unstored_response_is_on_disk(tmp_path: Any) -> None:
    from server.config.server import ServerConfig
    from server.store.opening import open_store

    app = state_app(make_engine("The answer is a riddle."))
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
    async with official(state_app(make_engine(), store_max_bytes=1000)) as client:
        response = await client.responses.create(model=MODEL, input="hi")
        assert response.to_dict()["store"] is False


# --- turns ------------------------------------------------------------------------------------------------------------


async def test_a_chain_is_shown_to_the_model_in_order_and_without_earlier_instructions() -> None:
    engine = make_engine()
    async with official(state_app(engine)) as client:
        first = await client.responses.create(model=MODEL, input="one", instructions="Be kind.")
        second = await client.responses.create(model=MODEL, input="two", previous_response_id=first.id)
        third = await client.responses.create(
            model=MODEL, input="three", previous_response_id=second.id, instructions="Be brief."
        )
        assert third.previous_response_id == second.id
        assert prompt_text(engine, 1) == "<user>one<assistant>Hello.<user>two<assistant>"
        assert prompt_text(engine, -1) == (
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
        assert counted.input_tokens > len(prompt_text(engine, -1))


async def test_a_chain_with_a_deleted_link_says_which() -> None:
    async with official(state_app(make_engine())) as client:
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
    engine = make_engine(finish=FinishReason.LENGTH)
    async with official(state_app(engine)) as client:
        first = await client.responses.create(model=MODEL, input="one")
        assert first.status == "incomplete"
        await client.responses.create(model=MODEL, input="two", previous_response_id=first.id)
        assert prompt_text(engine, -1) == "<user>one<assistant>Hello.<user>two<assistant>"


async def test_references_stand_for_stored_items() -> None:
    engine = make_engine()
    async with official(state_app(engine)) as client:
        first = await client.responses.create(model=MODEL, input="one")
        reference: Any = {"type": "item_reference", "id": first.output[0].id}
        await client.responses.create(model=MODEL, input=[reference, {"role": "user", "content": "two"}])
        assert prompt_text(engine, -1) == "<assistant>Hello.<user>two<assistant>"
        with pytest.raises(openai.NotFoundError, match="Item with id 'msg_0' not found"):
            await client.responses.create(model=MODEL, input=[{"type": "item_reference", "id": "msg_0"}])


# --- keys, faults -----------------------------------------------------------------------------------------------------


async def test_what_one_key_stored_does_not_exist_for_another() -> None:
    app = state_app(make_engine(), api_key=("ann", "ben"))
    async with official(app, "ann") as ann:
        response = await ann.responses.create(model=MODEL, input="hi", background=True)
        await until_ended(ann, response.id)
        conversation = await ann.conversations.create(items=[{"role": "user", "content": "one"}])
        item = (await ann.conversations.items.list(conversation.id)).data[0]
    async with official(app, "ben") as ben:
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
    async with official(app, "ann") as ann:
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
        ("POST", "/v1/conversations/conv_0", {}, "metadata is missing; it is required"),
        ("POST", "/v1/conversations/conv_0/items", {"items": []}, "it must have at least 1"),
        ("POST", PATH, {"input": "x", "conversation": {}}, "conversation.id is missing"),
    ],
)
async def test_faults_are_told(method: str, path: str, body: Any, message: str) -> None:
    async with http(state_app(make_engine())) as api:
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
    async with http(state_app(make_engine())) as api:
        answer = await api.post(path, json=body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (404, param)
