"""Thoughts, budgets and what follows them, of a real server with a tiny model that thinks nonsense."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from openai import OpenAI
from tokenizers import AddedToken, Tokenizer

from tests.e2e.conftest import FAST_START
from tests.helpers.checkpoints import llama_config, random_model
from tests.helpers.server_process import API_KEY, ServerProcess
from tests.helpers.tokenizers import DEMO_MODEL, gguf_assets

MESSAGES: Any = [{"role": "user", "content": "hi"}]
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n"
    "{% if enable_thinking is defined and not enable_thinking %}\n</think>\n\n{% endif %}{% endif %}"
)
SCHEMA = {
    "type": "object",
    "properties": {"a": {"type": "boolean"}, "b": {"enum": ["x", "y"]}},
    "required": ["a", "b"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenAI]:
    folder = tmp_path_factory.mktemp("thinking")
    assets = gguf_assets(DEMO_MODEL, download=True)
    assert assets is not None
    tokenizer = Tokenizer.from_str(assets.tokenizer_json.decode())
    tokenizer.add_tokens([AddedToken(mark, special=False, normalized=False) for mark in ("<think>", "</think>")])
    random_model(llama_config(vocab_size=tokenizer.get_vocab_size(), max_position_embeddings=2048)).save_pretrained(
        folder
    )
    (folder / "tokenizer.json").write_text(tokenizer.to_str())
    config = {"chat_template": TEMPLATE, "eos_token": "<|im_end|>", "tokenizer_class": "PreTrainedTokenizerFast"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    with ServerProcess(folder / "log", str(folder), *FAST_START) as server:
        server.wait_ready()
        yield OpenAI(base_url=f"{server.url}/v1", api_key=API_KEY, max_retries=0)


def _chat(client: OpenAI, **fields: Any) -> tuple[Any, Any]:
    """The first choice, and the usage."""
    model = client.models.list().data[0].id
    completion = client.chat.completions.create(model=model, messages=MESSAGES, max_tokens=80, extra_body=fields)
    return completion.choices[0], completion.usage


@pytest.mark.parametrize("fields", [{"seed": 1}, {"seed": 2, "logprobs": True}, {"seed": 3, "temperature": 0}])
def test_a_schema_is_kept_to_after_a_thought_of_the_budget(client: OpenAI, fields: dict[str, Any]) -> None:
    response_format = {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA}}
    choice, usage = _chat(client, thinking_token_budget=12, response_format=response_format, **fields)
    assert choice.finish_reason == "stop"
    assert set(json.loads(choice.message.content)) == {"a", "b"}
    assert choice.message.reasoning_content
    assert usage.completion_tokens_details.reasoning_tokens == 12
    if fields.get("logprobs"):
        assert len(choice.logprobs.content) == usage.completion_tokens


def test_a_required_call_comes_after_the_thought(client: OpenAI) -> None:
    tool = {"type": "function", "function": {"name": "answer", "parameters": SCHEMA}}
    choice, _ = _chat(client, thinking_token_budget=5, tools=[tool], tool_choice="required", parallel_tool_calls=False)
    assert choice.finish_reason == "tool_calls"
    assert choice.message.reasoning_content
    assert set(json.loads(choice.message.tool_calls[0].function.arguments)) == {"a", "b"}


def test_without_thinking_the_answer_comes_at_once(client: OpenAI) -> None:
    choice, _ = _chat(client, reasoning_effort="none", structured_outputs={"choice": ["yes", "no"]})
    assert choice.message.content in ("yes", "no")
    assert not hasattr(choice.message, "reasoning_content")
