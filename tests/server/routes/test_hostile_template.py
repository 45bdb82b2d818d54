"""A chat template that loops for ever: its request ends with an error, and the server goes on meanwhile."""

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest

from server.text.chat_templates.processes import TemplateProcesses
from server.text.chat_templates.runner import TemplateLimits
from tests.helpers.fake_client import MODEL, FakeClient, http, make_app, says

TEMPLATE = (
    "{% set xs = range(99999) | list %}{% if messages[-1].content == 'loop' %}"
    "{% for a in xs %}{% for b in xs %}{% endfor %}{% endfor %}{% endif %}{{ messages[-1].content }}"
)


@pytest.fixture
async def api() -> AsyncIterator[httpx.AsyncClient]:
    templates = TemplateProcesses(TemplateLimits(seconds=1, num_bytes=64 << 20))
    app = make_app(FakeClient(says("x")), templates=templates, chat_template=TEMPLATE)
    async with http(app) as client:
        yield client
    templates.close()


async def _chat(api: httpx.AsyncClient, content: str) -> httpx.Response:
    body = {"model": MODEL, "messages": [{"role": "user", "content": content}]}
    return await api.post("/v1/chat/completions", json=body)


async def test_a_template_that_loops_for_ever_costs_its_own_request_alone(api: httpx.AsyncClient) -> None:
    await asyncio.gather(*(_chat(api, "hello") for _ in range(2)))  # which starts two processes
    looping = asyncio.create_task(_chat(api, "loop"))
    for _ in range(2):
        assert (await api.get("/live")).status_code == 200
        assert (await _chat(api, "hello")).status_code == 200
    assert not looping.done()
    refused = await looping
    assert refused.status_code == 400
    error = refused.json()["error"]
    assert error["message"].startswith("the chat template cannot render these messages: it ran for more than")
    assert error["param"] == "messages"
