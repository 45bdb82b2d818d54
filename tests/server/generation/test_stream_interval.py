"""--stream-interval: fewer events, and the same answer."""

from typing import Any

import pytest

from engine.client.output_groups import OutputGroups
from engine.protocol import EngineRequest, FinishReason, RequestOutput
from tests.helpers.chat_templates import TOOL_TEMPLATE, TWO_CALLS
from tests.helpers.fake_client import FakeClient, Script, Step, http, make_app, says
from tests.helpers.sse import events

pytestmark = pytest.mark.fast

TEXT = "one two three — fünf\n\nsix seven"
CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}], "stream": True}
TOOLS = [{"type": "function", "function": {"name": name}} for name in ("plus", "now")]


def _grouped(script: Script) -> Script:
    """The script's outputs, as an engine sends them that is asked for several tokens at a time."""

    def grouped(request: EngineRequest) -> list[Step]:
        groups = OutputGroups()
        groups.add(request)
        outputs = [step for step in script(request) if isinstance(step, RequestOutput)]
        return [each for output in outputs for each in groups.pass_on([output])]

    return grouped


async def _chunks(script: Script, interval: int, **fields: Any) -> list[Any]:
    app = make_app(FakeClient(_grouped(script)), chat_template=TOOL_TEMPLATE, stream_interval=interval)
    async with http(app) as api:
        response = await api.post("/v1/chat/completions", json={**CHAT, **fields})
    assert response.status_code == 200, response.text
    *chunks, end = events(response.text)
    assert end == "[DONE]"
    return chunks


def _joined(chunks: list[Any]) -> dict[str, Any]:
    """All that the chunks of one choice add up to."""
    content, arguments, logprobs, finish = "", {}, [], None
    for choice in (choice for chunk in chunks for choice in chunk["choices"]):
        content += choice["delta"].get("content") or ""
        for call in choice["delta"].get("tool_calls", []):
            name, text = arguments.get(call["index"], ("", ""))
            function = call["function"]
            arguments[call["index"]] = (name + function.get("name", ""), text + function.get("arguments", ""))
        logprobs += (choice.get("logprobs") or {"content": []})["content"]
        finish = choice["finish_reason"] or finish
    usages = [chunk["usage"] for chunk in chunks if chunk.get("usage")]
    return {"content": content, "calls": arguments, "logprobs": logprobs, "finish": finish, "usage": usages[-1:]}


@pytest.mark.parametrize("interval", [2, 5, 1000])
@pytest.mark.parametrize(
    ("text", "finish", "fields"),
    [
        (TEXT, FinishReason.LENGTH, {}),
        (TEXT, FinishReason.STOP, {"logprobs": True, "top_logprobs": 1}),
        (TEXT, FinishReason.STOP, {"stop": ["three —"]}),
        (f"Let me see.\n{TWO_CALLS}", FinishReason.STOP, {"tools": TOOLS}),
    ],
)
async def test_an_answer_is_the_same_at_any_interval(
    text: str, finish: FinishReason, fields: dict[str, Any], interval: int
) -> None:
    fields = {**fields, "stream_options": {"include_usage": True}}
    one_by_one = await _chunks(says(text, finish=finish), 1, **fields)
    grouped = await _chunks(says(text, finish=finish), interval, **fields)
    assert _joined(grouped) == _joined(one_by_one)
    assert _joined(grouped)["usage"]
    assert len(grouped) < len(one_by_one) or "stop" in fields


async def test_the_first_token_comes_alone_and_the_last_ones_with_the_end() -> None:
    chunks = await _chunks(says("abcdefgh"), 3)
    deltas = [choice["delta"].get("content") for chunk in chunks for choice in chunk["choices"]]
    assert [delta for delta in deltas if delta] == ["a", "bcd", "efg", "h"]


async def test_a_text_that_a_stop_string_may_end_is_sent_token_by_token() -> None:
    client = FakeClient(says(TEXT))
    async with http(make_app(client, stream_interval=8)) as api:
        for stop in (None, "seven"):
            await api.post("/v1/chat/completions", json={**CHAT, "stop": stop})
    assert [request.tokens_per_output for request in client.requests] == [8, 1]
