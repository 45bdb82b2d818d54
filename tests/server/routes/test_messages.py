"""POST /v1/messages: what it makes of the model's text, and how its errors look."""

import json
from typing import Any

import httpx
import msgspec
import pytest
from tokenizers import AddedToken, Tokenizer

from engine.errors import EngineDied
from engine.protocol import AbortReason, EngineRequest, FinishReason, RequestOutput, ThinkingBudget
from tests.helpers.asgi import RawRequest
from tests.helpers.chat_templates import OPENED_THOUGHT, TWO_CALLS
from tests.helpers.fake_client import (
    MAX_MODEL_LEN,
    MODEL,
    TOKENIZER_SIZE,
    FakeClient,
    Step,
    byte_tokenizer,
    engine_info,
    http,
    make_app,
    says,
    says_ids,
)
from tests.helpers.sse import named_events

pytestmark = pytest.mark.fast

MESSAGES = [{"role": "user", "content": "hi"}]
PLUS = {"name": "plus", "input_schema": {"type": "object", "properties": {"a": {"type": "integer"}}}}
NOW = {"name": "now", "input_schema": {"type": "object"}}
TEMPLATE = (
    "{% if tools %}{% for t in tools %}{{ t | tojson }}\n{% endfor %}{% endif %}"
    "{% for m in messages %}<{{ m.role }}>{% if m.reasoning_content %}<think>{{ m.reasoning_content }}</think>"
    "{% endif %}{{ m.content }}"
    "{% for c in m.tool_calls or [] %}\n<tool_call>\n"
    '{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}}\n</tool_call>{% endfor %}'
    "\n{% endfor %}" + OPENED_THOUGHT
)
NO_THOUGHTS = {"thinking": {"type": "disabled"}}
ALTERNATING = (
    "{% for m in messages %}{% if m.role == 'system' and not loop.first %}{{ raise_exception('late system') }}"
    "{% endif %}<{{ m.role }}>{{ m.content }}\n{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)


async def _ask(client: FakeClient, template: str | None = None, **fields: Any) -> httpx.Response:
    async with http(make_app(client, chat_template=template)) as api:
        return await api.post("/v1/messages", json={"max_tokens": 20, "messages": MESSAGES, **fields})


async def _answer(client: FakeClient, template: str | None = None, **fields: Any) -> dict[str, Any]:
    response = await _ask(client, template, **fields)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def _prompt(client: FakeClient) -> str:
    return bytes(token for token in client.requests[-1].prompt_ids if token < 256).decode()


def _big(script: Any) -> FakeClient:
    return FakeClient(script, engine_info(max_model_len=4000))


async def test_an_answer_has_anthropics_shape() -> None:
    response = await _ask(FakeClient(says("Hello", finish=FinishReason.STOP)), system="S")
    answer = response.json()
    usage = answer.pop("usage")
    assert answer.pop("id").startswith("msg_")
    assert answer == {
        "type": "message",
        "role": "assistant",
        "model": MODEL,
        "content": [{"type": "text", "text": "Hello"}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
    }
    assert usage["cache_read_input_tokens"] == 2  # as the script says
    assert usage["output_tokens"] == 6
    assert response.headers["request-id"].startswith("req_")


async def test_the_count_is_what_an_answer_uses() -> None:
    fields = {"messages": MESSAGES, "system": "S", "tools": [PLUS], "tool_choice": {"type": "auto"}}
    async with http(make_app(_big(says("x")), chat_template=TEMPLATE)) as api:
        counted = (await api.post("/v1/messages/count_tokens", json=fields)).json()
        usage = (await api.post("/v1/messages", json={**fields, "max_tokens": 5})).json()["usage"]
    assert counted == {"input_tokens": usage["input_tokens"] + usage["cache_read_input_tokens"]}


async def test_a_stream_has_anthropics_events() -> None:
    response = await _ask(FakeClient(says("Hello", per_step=4, finish=FinishReason.STOP)), stream=True)
    assert response.headers["content-type"].startswith("text/event-stream")
    events = named_events(response.text)
    assert [event["type"] for event in events] == [
        "message_start",
        "content_block_start",
        "content_block_delta",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    started, ended = events[0]["message"], events[-2]
    assert started["usage"]["input_tokens"] == ended["usage"]["input_tokens"] > 0
    assert started["stop_reason"] is None
    assert ended["delta"] == {"stop_reason": "end_turn", "stop_sequence": None}
    assert ended["usage"]["output_tokens"] == 6


async def test_calls_are_blocks_and_the_reason_to_stop() -> None:
    client = _big(says(f"Let me see.\n{TWO_CALLS}", finish=FinishReason.STOP))
    answer = await _answer(client, TEMPLATE, tools=[PLUS, NOW], max_tokens=500, **NO_THOUGHTS)
    text, first, second = answer["content"]
    assert text["text"] == "Let me see."
    assert (first["name"], first["input"]) == ("plus", {"a": 1})
    assert (second["name"], second["input"]) == ("now", {})
    assert first["id"].startswith("toolu_")
    assert answer["stop_reason"] == "tool_use"


async def test_a_call_that_max_tokens_cuts_off_says_so() -> None:
    text = '<tool_call>\n{"name": "plus", "arguments": {"a": 1, "b": "x'
    answer = await _answer(_big(says(text)), TEMPLATE, tools=[PLUS], max_tokens=len(text), **NO_THOUGHTS)
    assert answer["stop_reason"] == "max_tokens"
    assert answer["content"][0]["input"] == {"a": 1}


async def test_thoughts_are_blocks_and_come_back_to_the_template() -> None:
    client = _big(says("hmm</think>Yes.", finish=FinishReason.STOP))
    answer = await _answer(client, TEMPLATE, max_tokens=100)
    thought, text = answer["content"]
    assert (thought["thinking"], text["text"]) == ("hmm", "Yes.")
    assert thought["signature"]
    assert answer["usage"]["output_tokens_details"]["thinking_tokens"] > 0
    history = [*MESSAGES, {"role": "assistant", "content": answer["content"]}, *MESSAGES]
    await _answer(client, TEMPLATE, max_tokens=100, messages=history)
    assert "<assistant><think>hmm</think>Yes.<user>" in _prompt(client)


@pytest.mark.parametrize(
    ("thinking", "end"),
    [
        ({"type": "disabled"}, "<think></think>"),
        ({"type": "adaptive"}, "<assistant><think>"),
        ({"type": "enabled", "budget_tokens": 1024}, "<assistant><think>"),
    ],
)
async def test_thinking_is_turned_on_and_off(thinking: dict[str, Any], end: str) -> None:
    client = _big(says("x</think>y"))
    response = await _ask(client, TEMPLATE, thinking=thinking)
    if thinking["type"] == "enabled":  # this tokenizer has no token for the mark that would end the thought
        assert response.status_code == 400
        assert response.json()["error"]["message"].startswith("thinking.budget_tokens needs marks")
        return
    assert _prompt(client).endswith(end)
    assert "x-ignored-parameters" not in response.headers


async def test_a_budget_reaches_the_engine_and_a_thought_can_be_left_out() -> None:
    tokenizer = Tokenizer.from_str(byte_tokenizer().decode())
    tokenizer.add_special_tokens([AddedToken("<think>"), AddedToken("</think>")])
    changed = msgspec.structs.replace(engine_info().tokenizer, tokenizer_json=tokenizer.to_str().encode())
    end = TOKENIZER_SIZE + 1
    client = FakeClient(says_ids([104, end, 105]), engine_info(tokenizer=changed))
    thinking = {"type": "enabled", "budget_tokens": 7, "display": "omitted"}
    answer = await _answer(client, TEMPLATE, thinking=thinking)
    assert client.requests[0].thinking == ThinkingBudget(7, TOKENIZER_SIZE, end, is_open=True)
    thought, text = answer["content"]
    assert (thought["type"], thought["thinking"], text["text"]) == ("thinking", "", "i")


async def test_thinking_that_is_turned_off_goes_before_an_effort() -> None:
    client = _big(says("y"))
    response = await _ask(client, TEMPLATE, **NO_THOUGHTS, output_config={"effort": "high"})
    assert _prompt(client).endswith("<think></think>")
    assert response.headers["x-ignored-parameters"] == "output_config.effort"


async def test_a_model_that_does_not_think_lists_thinking_and_effort() -> None:
    fields = {"thinking": {"type": "enabled", "budget_tokens": 1024}, "output_config": {"effort": "max"}}
    response = await _ask(FakeClient(says("x")), **fields)
    assert response.headers["x-ignored-parameters"] == "thinking, output_config.effort"
    response = await _ask(FakeClient(says("x")), **NO_THOUGHTS)
    assert "x-ignored-parameters" not in response.headers


async def test_a_stop_sequence_is_told() -> None:
    answer = await _answer(FakeClient(says("one END two")), stop_sequences=["END"])
    assert (answer["stop_reason"], answer["stop_sequence"]) == ("stop_sequence", "END")
    assert answer["content"][0]["text"] == "one "


async def test_more_tokens_than_fit_are_cut_to_the_context() -> None:
    client = FakeClient(says("Hello"))
    answer = await _answer(client, max_tokens=32_000)
    (request,) = client.requests
    assert request.sampling.max_tokens == MAX_MODEL_LEN - len(request.prompt_ids)
    assert answer["stop_reason"] == "model_context_window_exceeded"
    assert (await _answer(client, max_tokens=5))["stop_reason"] == "max_tokens"
    assert client.requests[1].sampling.max_tokens == 5


async def test_a_prompt_that_is_too_long_is_told_in_anthropics_words() -> None:
    response = await _ask(FakeClient(says("x")), messages=[{"role": "user", "content": "x" * 300}])
    assert response.status_code == 400
    assert response.json()["error"]["message"] == "prompt is too long: 319 tokens > 200 maximum; shorten it"


async def test_a_schema_becomes_a_grammar() -> None:
    client = FakeClient(says("{}"))
    schema = {"type": "object", "properties": {"xyz": {"type": "integer"}}, "required": ["xyz"]}
    await _answer(client, output_config={"format": {"type": "json_schema", "schema": schema}})
    assert "xyz" in (client.requests[0].grammar or "")


async def test_an_answer_goes_on_where_the_assistants_message_ends() -> None:
    client = FakeClient(says("x"))
    await _answer(client, messages=[*MESSAGES, {"role": "assistant", "content": "The answer is"}])
    assert _prompt(client).endswith("assistant\nThe answer is")


async def test_a_late_system_message_is_the_users_where_the_template_has_no_place_for_it() -> None:
    late = [*MESSAGES, {"role": "system", "content": "late"}]
    client = FakeClient(says("x"))
    await _answer(client, ALTERNATING, system="S", messages=late)
    assert _prompt(client).endswith("<system>S\n<user>hi\nlate\n<assistant>")
    await _answer(client, system="S", messages=late)
    assert _prompt(client).endswith("user\nhi\nsystem\nlate\nassistant\n")


async def test_what_is_ignored_is_listed_by_the_clients_names() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "array", "contains": {"type": "integer"}}}}
    tools = [{"type": "web_search_20250305", "name": "web_search"}, {**PLUS, "input_schema": schema}]
    response = await _ask(_big(says("x")), TEMPLATE, tools=tools, metadata={"user_id": "x"})
    assert response.headers["x-ignored-parameters"].split(", ") == [
        "metadata",
        "tools[0]",
        "tools[1].input_schema.properties.a.contains",
    ]


@pytest.mark.parametrize(
    ("fields", "status", "kind", "words"),
    [
        ({"max_tokens": None}, 400, "invalid_request_error", "max_tokens is null; it must be an integer"),
        ({"messages": []}, 400, "invalid_request_error", "messages is a list of 0 items; it must have at least 1"),
        ({"temperature": -1}, 400, "invalid_request_error", "temperature is -1.0"),
        ({"model": "claude"}, 404, "not_found_error", f"this server has '{MODEL}'"),
    ],
)
async def test_errors_have_anthropics_form(fields: dict[str, Any], status: int, kind: str, words: str) -> None:
    response = await _ask(FakeClient(says("x")), **fields)
    body = response.json()
    assert response.status_code == status
    assert (body["type"], body["error"]["type"]) == ("error", kind)
    assert words in body["error"]["message"]
    assert body["request_id"] == response.headers["request-id"]


async def test_a_full_queue_and_a_missing_engine_are_told_apart() -> None:
    client = FakeClient(says("x"))
    client.capacity = 0
    full = await _ask(client)
    assert (full.status_code, full.json()["error"]["type"]) == (429, "rate_limit_error")
    assert full.headers["retry-after"] == "2"
    client.state = type(client.state).LOADING
    loading = await _ask(client)
    assert (loading.status_code, loading.json()["error"]["type"]) == (503, "overloaded_error")


async def test_an_unknown_path_below_is_an_error_of_the_same_form() -> None:
    async with http(make_app(FakeClient(says("x")))) as api:
        response = await api.post("/v1/messages/batches", json={})
    assert (response.status_code, response.json()["error"]["type"]) == (404, "not_found_error")


@pytest.mark.parametrize("stream", [False, True])
async def test_an_error_before_the_first_token_is_a_status(stream: bool) -> None:
    response = await _ask(FakeClient(lambda _: [EngineDied("the engine ended")]), stream=stream)
    assert response.status_code == 503
    assert response.json()["error"] == {
        "type": "overloaded_error",
        "message": "the engine ended",
        "details": {"error_code": "engine_died"},
    }


async def test_an_error_within_a_stream_is_its_last_event() -> None:
    def script(request: EngineRequest) -> list[Step]:
        return [RequestOutput(id=request.id, new_ids=[72]), EngineDied("the engine ended")]

    response = await _ask(FakeClient(script), stream=True)
    events = named_events(response.text)
    assert events[2]["delta"] == {"type": "text_delta", "text": "H"}
    assert events[-1]["type"] == "error"
    assert events[-1]["error"]["message"] == "the engine ended"
    assert events[-1]["request_id"] == response.headers["request-id"]


async def test_silences_are_filled_with_pings_and_a_disconnect_ends_the_request() -> None:
    def script(request: EngineRequest) -> list[Step]:
        return [RequestOutput(id=request.id, new_ids=[72]), None]

    client = FakeClient(script)
    app = make_app(client, sse_ping_interval=0.01)
    body = {"max_tokens": 9, "messages": MESSAGES, "stream": True}
    async with RawRequest(app, "/v1/messages", body) as request:
        await request.until(lambda: b"event: ping" in request.body)
        assert {"type": "ping"} in named_events(request.body.decode())
        request.disconnect()
        await request.ended()
    assert client.num_open == 0
    assert client.streams[0].abort_reason is AbortReason.CLIENT_GONE


async def test_a_prompt_alone_can_be_computed() -> None:
    client = FakeClient(says(b""))
    answer = await _answer(client, max_tokens=0)
    assert client.requests[0].sampling.max_tokens == 0
    assert (answer["content"], answer["stop_reason"]) == ([], "max_tokens")


async def test_the_agents_first_request_is_understood() -> None:
    """What Anthropic's command-line agent sends beside texts."""
    cached = {"cache_control": {"type": "ephemeral"}}
    body = {
        "model": MODEL,
        "max_tokens": 32_000,
        "stream": True,
        "system": [
            {"type": "text", "text": "x-anthropic-billing-header: cc_version=2; cc_entrypoint=cli;"},
            {"type": "text", "text": "You are an agent.", **cached},
        ],
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "hi", **cached}]},
            {"role": "system", "content": "Agents: none."},
        ],
        "tools": [{**PLUS, "description": "Adds."}],
        "metadata": {"user_id": json.dumps({"session_id": "x"})},
        "thinking": {"type": "adaptive"},
        "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
        "output_config": {"effort": "high"},
    }
    client = _big(says("Hello", finish=FinishReason.STOP))
    async with http(make_app(client)) as api:
        headers = {"anthropic-version": "2023-06-01", "anthropic-beta": "claude-code-20250219"}
        response = await api.post("/v1/messages?beta=true", json=body, headers=headers)
    assert response.status_code == 200
    assert named_events(response.text)[-1] == {"type": "message_stop"}
    assert "billing" not in _prompt(client)
    assert set(response.headers["x-ignored-parameters"].split(", ")) == {
        "system[0]",
        "metadata",
        "context_management",
        "thinking",
        "output_config.effort",
    }
