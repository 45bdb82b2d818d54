"""A fake engine for decisions, whose distributions depend on the prompt alone."""

import functools
import math
import random
from typing import Any

import msgspec

from engine.protocol import EngineRequest, FinishReason, RequestOutput, TokenLogprobs
from tests.helpers.fake_client import VOCAB_SIZE, FakeClient, Step, engine_info


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
