"""Requests to Ollama's endpoints, and their answers."""

import json
from typing import Any

import httpx

from tests.helpers.fake_client import (
    MODEL,
    FakeClient,
    http,
    make_app,
)

MESSAGES = [{"role": "user", "content": "hi"}]
ADD = {"type": "function", "function": {"name": "plus", "parameters": {"type": "object", "properties": {}}}}
TOOL_TEMPLATE = (
    "{% if tools %}{% for t in tools %}{{ t.function.name }} {% endfor %}{% endif %}"
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% if m.tool_call_id %}[{{ m.tool_call_id }}]{% endif %}"
    "{% for c in m.tool_calls or [] %}\n<tool_call>\n"
    '{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}}\n</tool_call>{% endfor %}'
    "\n{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)


async def post(client: FakeClient, path: str, body: dict[str, Any], **options: Any) -> httpx.Response:
    async with http(make_app(client, **options)) as api:
        return await api.post(path, json={"model": MODEL, **body})


async def chat(client: FakeClient, *, chat_template: str | None = None, **fields: Any) -> httpx.Response:
    body = {"messages": MESSAGES, "stream": False, **fields}
    return await post(client, "/api/chat", body, chat_template=chat_template)


def lines(response: httpx.Response) -> list[dict[str, Any]]:
    assert response.headers["content-type"] == "application/x-ndjson"
    assert response.text.endswith("\n")
    return [json.loads(line) for line in response.content.splitlines()]
