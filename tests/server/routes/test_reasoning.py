"""Thoughts in chats: apart from the content, counted, limited, and before what a grammar says."""

from typing import Any

import httpx
import msgspec
import pytest
from tokenizers import AddedToken, Tokenizer

from engine.protocol import FinishReason, ThinkingBudget
from tests.helpers.chat_templates import OPENED_THOUGHT
from tests.helpers.fake_client import (
    IM_END,
    IM_START,
    TOKENIZER_SIZE,
    FakeClient,
    byte_tokenizer,
    engine_info,
    http,
    make_app,
    says,
    says_ids,
)
from tests.helpers.sse import contents, events

pytestmark = pytest.mark.fast

MESSAGES = [{"role": "user", "content": "hi"}]
# A model whose thoughts stand between control tokens, which the prompt opens unless it is told not to think.
TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{% if m.reasoning_content %}<|im_start|>{{ m.reasoning_content }}<|im_end|>"
    "{% endif %}{{ m.content }}\n{% endfor %}" + OPENED_THOUGHT
)


async def _chat(client: FakeClient, **fields: Any) -> httpx.Response:
    async with http(make_app(client, chat_template=TEMPLATE)) as api:
        return await api.post("/v1/chat/completions", json={"messages": MESSAGES, **fields})


async def test_a_thought_stands_apart_and_is_counted() -> None:
    response = await _chat(FakeClient(says("hmm</think>\n\nYes.", finish=FinishReason.STOP)))
    (choice,) = response.json()["choices"]
    assert choice["message"]["content"] == "Yes."
    assert choice["message"]["reasoning_content"] == choice["message"]["reasoning"] == "hmm"
    usage = response.json()["usage"]
    # One token a byte: the thought's, and its mark up to the character that completes it.
    assert usage["completion_tokens_details"]["reasoning_tokens"] == len("hmm</think")


async def test_a_stream_has_the_thought_first() -> None:
    response = await _chat(FakeClient(says("hmm</think>Yes.", per_step=4)), stream=True)
    chunks = events(response.text)
    thoughts = [
        choice["delta"]["reasoning_content"]
        for chunk in chunks[:-1]
        for choice in chunk["choices"]
        if "reasoning_content" in choice["delta"]
    ]
    assert "".join(thoughts) == "hmm"
    assert contents(chunks) == "Yes."


async def test_a_thought_can_be_left_out() -> None:
    response = await _chat(FakeClient(says("hmm</think>Yes.")), include_reasoning=False)
    message = response.json()["choices"][0]["message"]
    assert message["content"] == "Yes."
    assert "reasoning_content" not in message


@pytest.mark.parametrize("fields", [{"reasoning_effort": "none"}, {"chat_template_kwargs": {"enable_thinking": False}}])
async def test_a_model_that_is_told_not_to_think_answers_at_once(fields: dict[str, Any]) -> None:
    client = FakeClient(says("Yes."))
    message = (await _chat(client, **fields)).json()["choices"][0]["message"]
    assert message["content"] == "Yes."
    assert bytes(client.requests[0].prompt_ids).endswith(b"<think></think>")


async def test_a_grammar_begins_after_the_thought() -> None:
    client = FakeClient(says("hmm</think>yes"))
    await _chat(client, structured_outputs={"choice": ["yes", "no"]})
    open_grammar = client.requests[0].grammar or ""
    await _chat(client, structured_outputs={"choice": ["yes", "no"]}, reasoning_effort="none")
    closed_grammar = client.requests[1].grammar or ""
    assert "</think>" in open_grammar
    assert "</think>" not in closed_grammar


async def test_earlier_thoughts_reach_a_template_that_shows_them() -> None:
    client = FakeClient(says("x"))
    messages = [*MESSAGES, {"role": "assistant", "content": "a", "reasoning": "because"}, *MESSAGES]
    await _chat(client, messages=messages)
    ids = client.requests[0].prompt_ids
    start = ids.index(IM_START)
    assert bytes(ids[start + 1 : ids.index(IM_END)]) == b"because"


async def test_a_budget_needs_marks_of_one_token() -> None:
    response = await _chat(FakeClient(says("x")), thinking_token_budget=5)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "thinking_token_budget"
    assert "one token each" in response.json()["error"]["message"]


@pytest.mark.parametrize(("fields", "is_open"), [({}, True), ({"add_generation_prompt": False}, False)])
async def test_a_budget_reaches_the_engine_with_the_marks(fields: dict[str, Any], is_open: bool) -> None:
    tokenizer = Tokenizer.from_str(byte_tokenizer().decode())
    tokenizer.add_special_tokens([AddedToken("<think>"), AddedToken("</think>")])
    info = engine_info()
    changed = msgspec.structs.replace(info.tokenizer, tokenizer_json=tokenizer.to_str().encode())
    client = FakeClient(says_ids([104, TOKENIZER_SIZE + 1, 105]), engine_info(tokenizer=changed))
    response = await _chat(client, thinking_token_budget=5, **fields)
    assert response.status_code == 200, response.text
    assert client.requests[0].thinking == ThinkingBudget(5, TOKENIZER_SIZE, TOKENIZER_SIZE + 1, is_open)
