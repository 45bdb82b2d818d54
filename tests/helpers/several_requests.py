"""Requests to a server of several models."""

import asyncio
from typing import Any

from tests.helpers.fake_client import http
from tests.helpers.several import Several

CHAT = "/v1/chat/completions"
MESSAGES = [{"role": "user", "content": "hi"}]
BIG = 1 << 40  # of memory: room for all


def bodies(model: str) -> list[tuple[str, dict[str, Any]]]:
    return [
        (CHAT, {"model": model, "messages": MESSAGES}),
        ("/v1/completions", {"model": model, "prompt": "hi"}),
        ("/v1/messages", {"model": model, "messages": MESSAGES, "max_tokens": 50}),
        ("/v1/responses", {"model": model, "input": "hi"}),
        ("/api/chat", {"model": model, "messages": MESSAGES, "stream": False}),
        ("/api/generate", {"model": f"{model}:latest", "prompt": "hi", "stream": False}),
    ]


async def ask(several: Several, model: str, **fields: Any) -> str:
    async with http(several.app) as api:
        response = await api.post(CHAT, json={"model": model, "messages": MESSAGES, **fields})
    assert response.status_code == 200, response.text
    answer = response.json()
    assert answer["model"] == model
    text: str = answer["choices"][0]["message"]["content"]
    return text


async def until(condition: Any) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.001)
