"""Tokens that an answer says it has, whichever protocol it is in, whole or as a stream."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx


@dataclass(frozen=True, slots=True)
class AnsweredTokens:
    prompt: int
    cached: int | None  # None where the protocol does not tell
    output: int


def answered_tokens(response: httpx.Response) -> AnsweredTokens:
    """By the last usage in the answer, which has to tell one."""
    assert response.status_code == 200, response.text
    found = [tokens for document in _documents(response) if (tokens := _tokens(document)) is not None]
    assert found, response.text
    return found[-1]


def _documents(response: httpx.Response) -> Iterator[dict[str, Any]]:
    """The JSON objects of the body: all of it, or those of its lines or events."""
    kind = response.headers["content-type"].partition(";")[0]
    if kind == "application/json":
        yield response.json()
        return
    for line in response.text.splitlines():
        text = line.removeprefix("data: ")
        if text.startswith("{"):
            yield json.loads(text)


def _tokens(document: dict[str, Any]) -> AnsweredTokens | None:
    if document.get("done") and "eval_count" in document:  # Ollama
        return AnsweredTokens(document["prompt_eval_count"], None, document["eval_count"])
    usage = document.get("usage") or document.get("response", {}).get("usage")  # an event of the Responses API has both
    if not usage:
        return None
    if "prompt_tokens" in usage:  # OpenAI's older APIs
        cached = usage["prompt_tokens_details"]["cached_tokens"]
        return AnsweredTokens(usage["prompt_tokens"], cached, usage["completion_tokens"])
    if "input_tokens_details" in usage:  # the Responses API
        cached = usage["input_tokens_details"]["cached_tokens"]
        return AnsweredTokens(usage["input_tokens"], cached, usage["output_tokens"])
    if "cache_read_input_tokens" in usage:  # Anthropic's, whose input tokens are those that were not cached
        cached = usage["cache_read_input_tokens"]
        return AnsweredTokens(usage["input_tokens"] + cached, cached, usage["output_tokens"])
    return None
