"""Conversations and their items, and responses that are made in them."""

import asyncio
from typing import Any

import openai
import pytest

from tests.helpers.asgi import RawRequest
from tests.helpers.deadline import DEADLINE_S
from tests.helpers.fake_client import MODEL, prompt_text
from tests.helpers.response_state import PATH, make_engine, official, state_app

pytestmark = pytest.mark.fast


async def test_a_conversation_grows_with_its_responses() -> None:
    engine = make_engine()
    async with official(state_app(engine)) as client:
        conversation = await client.conversations.create(
            metadata={"topic": "x"}, items=[{"role": "system", "content": "Be kind."}]
        )
        for text, stream in [("one", False), ("two", True)]:
            answer = await client.responses.create(model=MODEL, input=text, conversation=conversation.id, stream=stream)
            if stream:
                events = [event async for event in answer]  # type: ignore[union-attr]
                assert events[-1].response.conversation.id == conversation.id
        assert prompt_text(engine, -1) == "<system>Be kind.<user>one<assistant>Hello.<user>two<assistant>"
        items = [item async for item in client.conversations.items.list(conversation.id, order="asc", limit=2)]
        assert [item.content[0].text for item in items] == ["Be kind.", "one", "Hello.", "two", "Hello."]  # type: ignore[union-attr]
        await client.responses.create(model=MODEL, input="three", conversation={"id": conversation.id}, store=False)
        assert len((await client.conversations.items.list(conversation.id)).data) == 7


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_at_the_end_leaves_response_and_conversation_in_step(
    stream: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = state_app(make_engine())
    store = app.state.context.store
    is_storing, may_go_on = asyncio.Event(), asyncio.Event()
    put = store.put

    async def slow_put(*arguments: Any) -> bool:
        is_storing.set()
        await may_go_on.wait()
        return bool(await put(*arguments))

    async with official(app) as client:
        conversation = await client.conversations.create()
        monkeypatch.setattr(store, "put", slow_put)
        body = {"input": "hi", "conversation": conversation.id, "stream": stream}
        async with RawRequest(app, PATH, body) as request:
            await asyncio.wait_for(is_storing.wait(), DEADLINE_S)
            request.disconnect()
            await request.ended()
        may_go_on.set()
        async with asyncio.timeout(DEADLINE_S):
            while len((await client.conversations.items.list(conversation.id)).data) != 2:
                await asyncio.sleep(0.001)


async def test_conversations_are_created_retrieved_updated_and_deleted() -> None:
    async with official(state_app(make_engine())) as client:
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
    engine = make_engine()
    async with official(state_app(engine)) as client:
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
        assert prompt_text(engine, -1) == "<user>two<user>three<assistant>"


async def test_a_response_of_a_conversation_is_continued_in_it() -> None:
    async with official(state_app(make_engine())) as client:
        conversation = await client.conversations.create()
        response = await client.responses.create(model=MODEL, input="one", conversation=conversation.id)
        with pytest.raises(openai.BadRequestError, match=f"give conversation: '{conversation.id}"):
            await client.responses.create(model=MODEL, input="two", previous_response_id=response.id)
        with pytest.raises(openai.BadRequestError, match="are both given"):
            await client.responses.create(
                model=MODEL, input="two", previous_response_id=response.id, conversation=conversation.id
            )
