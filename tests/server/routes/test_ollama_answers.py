"""Ollama's chats and generations: answers and streams, tools, thoughts, formats."""

from typing import Any

import msgspec
import pytest

from engine.errors import EngineDied
from engine.protocol import EngineRequest, FinishReason, RequestOutput
from tests.helpers.chat_templates import OPENED_THOUGHT
from tests.helpers.fake_client import (
    MAX_MODEL_LEN,
    MODEL,
    FakeClient,
    Step,
    engine_info,
    prompt_text,
    says,
)
from tests.helpers.ollama import ADD, MESSAGES, TOOL_TEMPLATE, chat, lines, post

pytestmark = pytest.mark.fast

HELLO = says("Grüße 🙂", finish=FinishReason.STOP)
THINKING_TEMPLATE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}" + OPENED_THOUGHT
DURATIONS = ("total_duration", "prompt_eval_duration", "eval_duration")


async def test_a_chat_is_streamed_unless_stream_is_false() -> None:
    response = await post(FakeClient(HELLO), "/api/chat", {"messages": MESSAGES})
    *parts, last = lines(response)
    assert "".join(part["message"]["content"] for part in parts) == "Grüße 🙂"
    assert not any(part["done"] for part in parts)
    assert last["done"] is True
    assert last["done_reason"] == "stop"
    assert last["message"] == {"role": "assistant", "content": ""}
    assert {line["model"] for line in (*parts, last)} == {MODEL}
    assert (last["prompt_eval_count"] > 0, last["eval_count"]) == (True, len("Grüße 🙂".encode()) + 1)
    assert all(last[name] > 0 for name in DURATIONS)
    assert last["load_duration"] == 0
    assert last["total_duration"] >= last["eval_duration"]


async def test_a_whole_chat_has_everything_at_once() -> None:
    answer = (await chat(FakeClient(HELLO))).json()
    assert answer["message"] == {"role": "assistant", "content": "Grüße 🙂"}
    assert (answer["done"], answer["done_reason"]) == (True, "stop")
    assert answer["eval_count"] == len("Grüße 🙂".encode()) + 1


async def test_time_in_the_queue_is_no_evaluation_of_the_prompt() -> None:
    def script(request: EngineRequest) -> list[Step]:
        finish = FinishReason.LENGTH
        return [RequestOutput(id=request.id, new_ids=[72], finish_reason=finish, queue_s=3600.0)]

    answer = (await chat(FakeClient(script))).json()
    assert answer["prompt_eval_duration"] == 1  # all of its time was in the queue


async def test_a_generation_is_a_chat_of_one_message() -> None:
    client = FakeClient(HELLO)
    response = await post(client, "/api/generate", {"prompt": "why", "system": "be brief"})
    *parts, last = lines(response)
    assert "".join(part["response"] for part in parts) == "Grüße 🙂"
    assert (last["response"], last["done_reason"]) == ("", "stop")
    assert prompt_text(client) == "system\nbe brief\nuser\nwhy\nassistant\n"


async def test_a_raw_prompt_is_continued_without_a_template_until_the_context_is_full() -> None:
    client = FakeClient(says("x"))
    response = await post(client, "/api/generate", {"prompt": "why", "raw": True, "stream": False})
    assert response.json()["response"] == "x"
    assert prompt_text(client) == "why"
    assert client.requests[0].sampling.max_tokens == MAX_MODEL_LEN - len(client.requests[0].prompt_ids)


async def test_a_model_without_a_template_continues_the_prompt() -> None:
    info = engine_info()
    bare = engine_info(tokenizer=msgspec.structs.replace(info.tokenizer, chat_template=None))
    client = FakeClient(says("x"), bare)
    assert (await post(client, "/api/generate", {"prompt": "why", "stream": False})).status_code == 200
    assert prompt_text(client) == "why"
    refused = await post(client, "/api/generate", {"prompt": "why", "system": "be brief"})
    assert refused.status_code == 400
    assert refused.json()["error"].startswith("system needs the model's chat template")


@pytest.mark.parametrize("path", ["/api/chat", "/api/generate"])
async def test_a_request_without_a_prompt_is_answered_at_once(path: str) -> None:
    client = FakeClient(says("x"))
    response = await post(client, path, {"keep_alive": 0})
    answer = response.json()
    assert (answer["done"], answer["done_reason"], answer["model"]) == (True, "load", MODEL)
    assert (answer.get("response") or answer.get("message", {}).get("content") or "") == ""
    assert response.headers["x-ignored-parameters"] == "keep_alive"  # it stays loaded
    assert client.requests == []


async def test_calls_are_objects_and_come_whole() -> None:
    text = (
        'Let me see.\n<tool_call>\n{"name": "plus", "arguments": {"b": 12345678901234567890, "a": 1.0}}\n</tool_call>\n'
        '<tool_call>\n{"name": "plus", "arguments": {}}\n</tool_call>'
    )
    whole = (await chat(FakeClient(says(text)), chat_template=TOOL_TEMPLATE, tools=[ADD])).json()["message"]
    streamed = lines(await chat(FakeClient(says(text)), chat_template=TOOL_TEMPLATE, tools=[ADD], stream=True))
    assert whole["content"] == "Let me see."
    functions = [call["function"] for call in whole["tool_calls"]]
    assert functions == [
        {"index": 0, "name": "plus", "arguments": {"b": 12345678901234567890, "a": 1.0}},
        {"index": 1, "name": "plus", "arguments": {}},
    ]
    assert list(functions[0]["arguments"]) == ["b", "a"]
    calls = [call for part in streamed for call in part["message"].get("tool_calls", [])]
    assert [call["function"] for call in calls] == functions


@pytest.mark.parametrize("arguments", ['{"a": 1', '{"a": \n}}\n</tool_call>', "[1]}\n</tool_call>"])
async def test_a_call_whose_arguments_are_no_object_is_no_call(arguments: str) -> None:
    text = f'<tool_call>\n{{"name": "plus", "arguments": {arguments}'
    answer = (await chat(FakeClient(says(text)), chat_template=TOOL_TEMPLATE, tools=[ADD])).json()
    assert "tool_calls" not in answer["message"]
    assert answer["done_reason"] == "length"


async def test_earlier_calls_and_their_results_reach_the_template() -> None:
    client = FakeClient(says("3"))
    messages = [
        *MESSAGES,
        {"role": "assistant", "tool_calls": [{"function": {"name": "plus", "arguments": {"a": 1}}}]},
        {"role": "tool", "tool_name": "plus", "content": "2"},
    ]
    await chat(client, chat_template=TOOL_TEMPLATE, messages=messages)
    assert prompt_text(client) == (
        '<user>hi<assistant><tool_call>\n{"name": "plus", "arguments": {"a": 1}}\n</tool_call>'
        "<tool>2[call_1_0]<assistant>"
    )


async def test_a_thought_stands_apart() -> None:
    script = says("hmm</think>\n\nYes.", finish=FinishReason.STOP)
    whole = (await chat(FakeClient(script), chat_template=THINKING_TEMPLATE)).json()
    assert whole["message"] == {"role": "assistant", "content": "Yes.", "thinking": "hmm"}
    response = await post(FakeClient(script), "/api/generate", {"prompt": "x"}, chat_template=THINKING_TEMPLATE)
    assert "".join(line.get("thinking", "") for line in lines(response)) == "hmm"
    assert "".join(line["response"] for line in lines(response)) == "Yes."


@pytest.mark.parametrize(
    ("think", "end", "ignored"),
    [
        (True, "<think>", None),
        (False, "<think></think>", None),
        ("high", "<think>", "think"),  # the template knows no levels
        (None, "<think>", None),
    ],
)
async def test_think_turns_thinking_on_and_off(think: Any, end: str, ignored: str | None) -> None:
    client = FakeClient(says("x"))
    response = await chat(client, chat_template=THINKING_TEMPLATE, think=think)
    assert response.status_code == 200
    assert prompt_text(client).endswith(f"<assistant>{end}")
    assert response.headers.get("x-ignored-parameters") == ignored


async def test_not_to_think_is_nothing_to_a_model_that_does_not() -> None:
    response = await chat(FakeClient(says("x")), think=False)
    assert (response.status_code, response.headers.get("x-ignored-parameters")) == (200, None)


async def test_a_format_is_a_grammar() -> None:
    client = FakeClient(says("{}"))
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    await chat(client, format="json")
    await chat(client, format=schema)
    await chat(client, format="")
    grammars = [request.grammar for request in client.requests]
    assert grammars[0] is not None
    assert grammars[1] is not None
    assert '"a' in grammars[1] or '\\"a' in grammars[1]
    assert grammars[2] is None


async def test_log_probabilities_come_with_their_tokens() -> None:
    whole = (await chat(FakeClient(says("ab")), logprobs=True, top_logprobs=1)).json()
    streamed = lines(await chat(FakeClient(says("ab")), logprobs=True, top_logprobs=1, stream=True))
    assert [score["token"] for score in whole["logprobs"]] == ["a", "b"]
    assert whole["logprobs"][0]["top_logprobs"][0]["token"] == "a"
    assert [score for line in streamed for score in line.get("logprobs", [])] == whole["logprobs"]
    raw = {"prompt": "x", "raw": True, "stream": False, "logprobs": True}
    assert len((await post(FakeClient(says("ab")), "/api/generate", raw)).json()["logprobs"]) == 2


async def test_a_stream_that_breaks_ends_with_an_error() -> None:
    def script(request: EngineRequest) -> list[Step]:
        return [RequestOutput(id=request.id, new_ids=[72]), EngineDied("the engine ended")]

    first, last = lines(await chat(FakeClient(script), stream=True))
    assert first["message"]["content"] == "H"
    assert last == {"error": "the engine ended"}
