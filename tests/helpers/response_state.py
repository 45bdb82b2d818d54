"""What the tests of stored, background and conversations' responses share: an application, and the official client."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

from fastapi import FastAPI
from openai import AsyncOpenAI

from engine.protocol import EngineRequest, FinishReason, RequestOutput
from tests.helpers.deadline import DEADLINE_S
from tests.helpers.fake_client import FakeClient, Step, engine_info, http, make_app, says

PATH = "/v1/responses"
REFERENCE = {"type": "item_reference", "id": "msg_0"}
_TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def make_engine(text: str = "Hello.", *, per_step: int = 3, finish: FinishReason = FinishReason.STOP) -> FakeClient:
    return FakeClient(says(text, per_step=per_step, finish=finish), engine_info(max_model_len=4000))


def hangs(request: EngineRequest) -> list[Step]:
    return [RequestOutput(id=request.id, new_ids=[72, 105]), None]


def state_app(engine: FakeClient, **options: Any) -> FastAPI:
    return make_app(engine, chat_template=_TEMPLATE, **options)


@contextlib.asynccontextmanager
async def official(app: FastAPI, key: str = "none") -> AsyncIterator[AsyncOpenAI]:
    async with http(app) as api, AsyncOpenAI(base_url="http://server/v1", api_key=key, http_client=api) as client:
        yield client.with_options(max_retries=0)


async def until_ended(client: AsyncOpenAI, response_id: str) -> Any:
    """The response once it is no longer running."""
    async with asyncio.timeout(DEADLINE_S):
        while (response := await client.responses.retrieve(response_id)).status in ("queued", "in_progress"):
            await asyncio.sleep(0.001)
    return response
