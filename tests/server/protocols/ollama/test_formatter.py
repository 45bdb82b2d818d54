"""A stream's lines, summed up, are the whole answer, however the text is cut into outputs."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.protocol import FinishReason
from tests.helpers.fake_client import MODEL, FakeClient, http, make_app, says
from tests.helpers.ollama import ADD, TOOL_TEMPLATE

pytestmark = pytest.mark.fast

CALL = '<tool_call>\n{"name": "plus", "arguments": {"a": [1, {"b": "}"}]}}\n</tool_call>'
TIMES = ("created_at", "total_duration", "prompt_eval_duration", "eval_duration")


def _summed(lines: list[dict[str, Any]], field: str) -> dict[str, Any]:
    """The last line with what all lines add up to. field: that holds the text, "message" or "response"."""
    last = lines[-1]
    scores = [score for line in lines for score in line.get("logprobs", [])]
    whole = {**last, **({"logprobs": scores} if scores else {})}
    if field == "response":
        return {**whole, "response": "".join(line["response"] for line in lines)}
    message = {"role": "assistant", "content": "".join(line["message"]["content"] for line in lines)}
    calls = [call for line in lines for call in line["message"].get("tool_calls", [])]
    return {**whole, "message": {**message, **({"tool_calls": calls} if calls else {})}}


def _timeless(answer: dict[str, Any]) -> dict[str, Any]:
    kept = {name: value for name, value in answer.items() if name not in TIMES}
    for call in kept.get("message", {}).get("tool_calls", []):
        call["id"] = "drawn anew"
    return kept


@settings(max_examples=60)
@given(
    pieces=st.lists(st.sampled_from(["a", "ß", "🙂", "<tool", "\n", CALL, CALL[:-20], "{}"]), max_size=6),
    per_step=st.integers(1, 40),
    finish=st.sampled_from([FinishReason.STOP, FinishReason.LENGTH]),
    logprobs=st.booleans(),
    path=st.sampled_from(["/api/chat", "/api/generate"]),
)
async def test_a_streams_lines_add_up_to_the_whole_answer(
    pieces: list[str], per_step: int, finish: FinishReason, *, logprobs: bool, path: str
) -> None:
    text = "".join(pieces) or "x"
    body = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}], "tools": [ADD], "logprobs": logprobs}
    if path == "/api/generate":
        body = {"model": MODEL, "prompt": "hi", "raw": True, "logprobs": logprobs}
    script = says(text, per_step=per_step, finish=finish)
    async with http(make_app(FakeClient(script), chat_template=TOOL_TEMPLATE)) as api:
        whole = (await api.post(path, json={**body, "stream": False})).json()
        lines = [json.loads(line) for line in (await api.post(path, json=body)).content.splitlines()]
    assert not any(line["done"] for line in lines[:-1])
    summed = _summed(lines, "message" if path == "/api/chat" else "response")
    assert _timeless(summed) == _timeless(whole)
