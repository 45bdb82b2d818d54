"""Requests for decisions, and a fake engine for them, whose distributions depend on the prompt alone."""

import functools
import math
import random
from typing import Any

import httpx
import msgspec

from engine.protocol import EngineRequest, FinishReason, RequestOutput, TokenLogprobs
from tests.helpers.fake_client import MODEL, VOCAB_SIZE, FakeClient, Step, engine_info, http, make_app

URL = "/v1/decisions"
PREDICATE = {"type": "predicate", "instructions": "It floats."}
CHOICE = {
    "type": "choice",
    "name": "kind",
    "instructions": "What is it?",
    "choices": [{"value": "boat", "description": "it carries people"}, {"value": "boats"}, {"value": True}],
}
SCORE = {"type": "score", "instructions": "How wet is it?", "levels": [{"label": "dry"}, {"label": "wet"}]}
BODY = {"model": MODEL, "input": "A raft.", "questions": [PREDICATE, CHOICE, SCORE], "min_mass": 0}


@functools.cache
def _row(*ids: int) -> list[float]:
    draw = random.Random(str(ids))
    logits = [draw.gauss(0, 2) for _ in range(VOCAB_SIZE)]
    total = math.log(math.fsum(map(math.exp, logits)))
    return [logit - total for logit in logits]


def _language(request: EngineRequest) -> list[Step]:
    assert (request.sampling.max_tokens, request.sampling.logprobs) == (1, 0)
    row = _row(*request.prompt_ids)
    scores = TokenLogprobs(0, row[0], [(each, row[each]) for each in request.sampling.logprob_token_ids])
    return [
        RequestOutput(
            id=request.id,
            new_ids=[0],
            logprobs=[scores],
            finish_reason=FinishReason.LENGTH,
            num_cached_tokens=16,
            queue_s=0.25,
        )
    ]


def decision_client(**tokenizer: Any) -> FakeClient:
    """A client of the fake engine. tokenizer: changes of its tokenizer's settings."""
    info = engine_info(max_model_len=4096)
    changed = msgspec.structs.replace(info.tokenizer, **tokenizer)
    return FakeClient(_language, msgspec.structs.replace(info, tokenizer=changed))


def probability(prompt: list[int], *spellings: str) -> float:
    """The probability that the fake engine continues the prompt with one of the texts."""
    return math.fsum(_probability(prompt, text) for text in spellings)


def _probability(prompt: list[int], text: str) -> float:
    ids = [*prompt, *text.encode()]
    return math.exp(math.fsum(_row(*ids[:end])[ids[end]] for end in range(len(prompt), len(ids))))


async def post(client: FakeClient, body: dict[str, Any], **options: Any) -> httpx.Response:
    async with http(make_app(client, **options)) as api:
        return await api.post(URL, json=body)


async def decide(client: FakeClient, body: dict[str, Any]) -> Any:
    """Return the answer of a server with the fake engine, which has nothing left to do."""
    response = await post(client, body)
    assert response.status_code == 200, response.text
    assert client.num_open == 0
    return response.json()


async def refused(client: FakeClient, changes: dict[str, Any], **options: Any) -> dict[str, Any]:
    """Return the error for a body with changes, which the engine does not see."""
    response = await post(client, {**BODY, **changes}, **options)
    assert response.status_code == 400, response.text
    assert not client.requests
    error: dict[str, Any] = response.json()["error"]
    return error


def marked(text: str) -> dict[str, Any]:
    return {"type": "input_text", "text": text, "prompt_cache_breakpoint": {"mode": "explicit"}}
