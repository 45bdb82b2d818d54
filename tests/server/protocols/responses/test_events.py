"""Streamed events, folded together, are the whole answer, however the answer is cut into pieces."""

import asyncio
import itertools
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi import FastAPI
from hypothesis import example, given, settings
from hypothesis import strategies as st

from engine.protocol import EngineRequest, FinishReason
from tests.helpers.fake_client import FakeClient, Step, engine_info, http, make_app, says
from tests.helpers.response_events import events_of, fold

pytestmark = pytest.mark.fast

TEMPLATE = (
    "{% if tools %}{% for t in tools %}{{ t | tojson }}\n{% endfor %}{% endif %}"
    "{% for m in messages %}<{{ m.role }}>"
    "{% if m.reasoning_content %}<think>\n{{ m.reasoning_content }}\n</think>\n\n{% endif %}{{ m.content }}"
    "{% for c in m.tool_calls or [] %}\n<tool_call>\n"
    '{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}}\n</tool_call>{% endfor %}'
    "\n{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)
TOOLS = [
    {"type": "function", "name": "plus", "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}}},
    {"type": "custom", "name": "patch", "description": "Changes a file."},
    {"type": "namespace", "name": "files", "description": "", "tools": [{"type": "function", "name": "list"}]},
]
PARTS = {
    "thought": "<think>\nA tool, 🙂?\n</think>\n\n",
    "text": "Let me see: Grüße.",
    "call": '\n<tool_call>\n{"name": "plus", "arguments": {"a": 1}}\n</tool_call>',
    "custom": '\n<tool_call>\n{"name": "patch", "arguments": {"input": "* é\\n+\\"x\\"\\ud83d\\ude42"}}\n</tool_call>',
    "namespaced": '\n<tool_call>\n{"name": "files__list", "arguments": {}}\n</tool_call>',
}


class _Server:
    """An application whose model is found out once, and whose answers each example sets."""

    def __init__(self) -> None:
        self.script = says("")
        self.client = FakeClient(self._play, engine_info(max_model_len=4000))
        self.app: FastAPI = make_app(self.client, chat_template=TEMPLATE)
        self.runner = asyncio.Runner()

    def _play(self, request: EngineRequest) -> list[Step]:
        return self.script(request)

    def post(self, **fields: Any) -> Any:
        async def post() -> Any:
            async with http(self.app) as api:
                return await api.post("/v1/responses", json={"input": "hi", "tools": TOOLS, **fields})

        return self.runner.run(post())


@pytest.fixture(scope="module")
def server() -> Iterator[_Server]:
    server = _Server()
    with server.runner:
        yield server


def _without_ids(response: dict[str, Any]) -> dict[str, Any]:
    """The response but for what differs between two runs."""
    output = [{**item, "id": None, "call_id": None} for item in response["output"]]
    return {**response, "output": output, "id": None, "created_at": None, "completed_at": None}


ANSWERS = st.builds(
    lambda thought, text, calls: "".join(PARTS[name] for name in (*thought, *text, *calls)),
    st.sampled_from([(), ("thought",)]),
    st.sampled_from([(), ("text",)]),
    st.lists(st.sampled_from(["call", "custom", "namespaced"]), max_size=3),
)


@settings(deadline=None, max_examples=80)
@example(PARTS["namespaced"] * 3, 51, 161, True)
@given(ANSWERS, st.integers(1, 60), st.integers(0, 400), st.booleans())
def test_a_stream_folds_to_the_whole_answer(
    server: _Server, answer: str, per_step: int, cut: int, has_logprobs: bool
) -> None:
    data = answer.encode()[: cut or None]
    finish = FinishReason.LENGTH if len(data) < len(answer.encode()) else FinishReason.STOP
    include = ["message.output_text.logprobs"] if has_logprobs else []
    server.script = says(data, per_step=per_step, finish=finish)
    folded = fold(events_of(server.post(stream=True, include=include).text))
    server.script = says(data, per_step=1, finish=finish)
    whole = server.post(include=include).json()
    assert _without_ids(folded) == _without_ids(whole)
    assert whole["status"] == ("incomplete" if finish is FinishReason.LENGTH else "completed")
    assert len({item["id"] for item in folded["output"]}) == len(folded["output"])


def test_the_items_of_an_answer_stand_in_its_order(server: _Server) -> None:
    server.script = says("".join(PARTS.values()), finish=FinishReason.STOP)
    thought, message, call, custom, namespaced = server.post().json()["output"]
    assert thought["content"] == [{"type": "reasoning_text", "text": "A tool, 🙂?"}]
    assert (thought["type"], thought["summary"], thought["encrypted_content"]) == ("reasoning", [], None)
    assert message["content"][0]["text"] == "Let me see: Grüße."
    assert (call["type"], call["name"], call["arguments"]) == ("function_call", "plus", '{"a": 1}')
    assert (custom["type"], custom["name"], custom["input"]) == ("custom_tool_call", "patch", '* é\n+"x"🙂')
    assert (namespaced["name"], namespaced["namespace"], namespaced["arguments"]) == ("list", "files", "{}")
    prefixes = [item["id"].partition("_")[0] for item in (thought, message, call, custom, namespaced)]
    assert prefixes == ["rs", "msg", "fc", "ctc", "fc"]


@pytest.mark.parametrize(("per_step", "name"), [*itertools.product((1, 5, 200), ("text", "thought"))])
def test_log_probabilities_are_those_of_the_message(server: _Server, per_step: int, name: str) -> None:
    parts = [PARTS["thought"]] if name == "thought" else []
    server.script = says("".join([*parts, PARTS["text"], PARTS["call"]]), per_step=per_step, finish=FinishReason.STOP)
    response = server.post(include=["message.output_text.logprobs"], top_logprobs=1).json()
    (message,) = [item for item in response["output"] if item["type"] == "message"]
    logprobs = message["content"][0]["logprobs"]
    assert b"".join(bytes(token["bytes"]) for token in logprobs).decode() == PARTS["text"]
    assert all(len(token["top_logprobs"]) == 1 for token in logprobs)


@pytest.mark.parametrize(
    ("text", "statuses"),
    [
        ("Let me", ["incomplete"]),
        ("<think>\nA to", ["incomplete"]),
        (PARTS["text"] + PARTS["call"], ["completed", "completed"]),
        (PARTS["call"][:-20], ["incomplete"]),
        (PARTS["call"] + PARTS["custom"][:-40], ["completed", "incomplete"]),
    ],
)
def test_what_the_limit_cuts_is_incomplete(server: _Server, text: str, statuses: list[str]) -> None:
    server.script = says(text, finish=FinishReason.LENGTH)
    response = server.post(max_output_tokens=500).json()
    assert [item["status"] for item in response["output"]] == statuses
    assert (response["status"], response["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})


def test_an_answer_of_nothing_is_an_empty_message(server: _Server) -> None:
    server.script = says("", finish=FinishReason.STOP)
    (item,) = fold(events_of(server.post(stream=True).text))["output"]
    assert item["content"] == [{"type": "output_text", "text": "", "annotations": [], "logprobs": []}]


def test_thoughts_can_be_left_out_or_sent_back_in_another_form(server: _Server) -> None:
    server.script = says(PARTS["thought"] + "Yes.", finish=FinishReason.STOP)
    hidden = server.post(include_reasoning=False).json()
    assert [item["type"] for item in hidden["output"]] == ["message"]
    assert hidden["usage"]["output_tokens_details"]["reasoning_tokens"] > 0
    server.script = says(PARTS["thought"] + "Yes.", finish=FinishReason.STOP)
    thought = server.post(include=["reasoning.encrypted_content"]).json()["output"][0]
    assert thought["encrypted_content"].startswith("headrace1:")
    assert server.post(input=[{**thought, "content": None}, {"role": "user", "content": "so?"}]).status_code == 200
    prompt = bytes(token for token in server.client.requests[-1].prompt_ids if token < 256).decode()
    assert "<think>\nA tool, 🙂?\n</think>" in prompt


def test_obfuscation_hides_the_length_of_pieces(server: _Server) -> None:
    server.script = says(PARTS["text"], per_step=3, finish=FinishReason.STOP)
    events = events_of(server.post(stream=True, stream_options={"include_obfuscation": True}).text)
    deltas = [event for event in events if event["type"].endswith(".delta")]
    assert {(len(event["delta"]) + len(event["obfuscation"])) % 16 for event in deltas} == {0}
