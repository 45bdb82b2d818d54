"""use_beam_search: requests of one token each, and what a client gets of them."""

import random
from typing import Any

import pytest

from engine.errors import QueueFull
from engine.protocol import AbortReason, EngineRequest, FinishReason, RequestOutput, SubmittedRequest, TokenLogprobs
from server.generation.beams.search import BeamOptions, BeamSearch
from tests.helpers.asgi import RawRequest
from tests.helpers.fake_client import BOS, IM_END, FakeClient, FakeStream, Step, engine_info, http, make_app, says

pytestmark = pytest.mark.fast

CHAT_URL, TEXT_URL = "/v1/chat/completions", "/v1/completions"
CHAT = {"messages": [{"role": "user", "content": "hi"}]}
TEXT = {"prompt": "ab", "max_tokens": 6}
BEAMS = {"use_beam_search": True, "n": 3}
IDS = [*b"abcdefgh", IM_END]


def _likeliest(ids: list[int], num: int) -> list[TokenLogprobs]:
    """The language of this engine: log probabilities that the ids alone decide."""
    rng = random.Random(str(ids))
    scored = sorted(((-rng.uniform(0.5, 4), token_id) for token_id in IDS), reverse=True)[:num]
    top = [(token_id, logprob) for logprob, token_id in scored]
    return [TokenLogprobs(token_id, logprob, top) for token_id, logprob in top]


def _language(request: EngineRequest) -> list[Step]:
    assert request.sampling.max_tokens == 1
    assert request.sampling.logprobs is not None
    best = _likeliest(request.prompt_ids, request.sampling.logprobs)[0]
    num_prompt = request.sampling.prompt_logprobs
    prompt = None if num_prompt is None else [None, *(TokenLogprobs(i, -1.0, [], 1) for i in request.prompt_ids[1:])]
    return [
        RequestOutput(
            id=request.id,
            new_ids=[best.token_id],
            logprobs=[best],
            prompt_logprobs=prompt,
            finish_reason=FinishReason.LENGTH,
            num_cached_tokens=len(request.prompt_ids) - 1,
            queue_s=0.25,
        )
    ]


def _expected(prompt_ids: list[int], width: int, max_tokens: int) -> list[list[int]]:
    search = BeamSearch(BeamOptions(width), max_tokens=max_tokens, end_ids=frozenset([IM_END]))
    while not search.is_over:
        rows = [prompt_ids + [token.token_id for token in beam.tokens] for beam in search.running]
        search.advance([_likeliest(row, search.num_continuations) for row in rows])
    return [[token.token_id for token in each.beam.tokens] for each in search.finished]


def _text(ids: list[int]) -> str:
    return bytes(token_id for token_id in ids if token_id < 256).decode()


async def _post(client: FakeClient, path: str, body: dict[str, Any], **options: Any) -> Any:
    async with http(make_app(client, **options)) as api:
        return await api.post(path, json=body)


async def _answer(client: FakeClient, path: str, body: dict[str, Any]) -> Any:
    response = await _post(client, path, body)
    assert response.status_code == 200, response.text
    assert client.num_open == 0
    return response.json()


async def test_a_completion_has_the_best_beams_best_first() -> None:
    client = FakeClient(_language)
    answer = await _answer(client, TEXT_URL, {**TEXT, **BEAMS, "return_token_ids": True})
    beams = _expected([BOS, *b"ab"], 3, 6)
    assert [choice["token_ids"] for choice in answer["choices"]] == beams
    assert [choice["text"] for choice in answer["choices"]] == list(map(_text, beams))
    assert [choice["finish_reason"] for choice in answer["choices"]] == [
        "stop" if beam[-1] == IM_END else "length" for beam in beams
    ]
    assert answer["usage"]["completion_tokens"] == sum(map(len, beams))
    assert answer["usage"]["prompt_tokens"] == 3
    assert answer["usage"]["prompt_tokens_details"]["cached_tokens"] == 2


async def test_a_chat_has_beams_too() -> None:
    client = FakeClient(_language)
    answer = await _answer(client, CHAT_URL, {**CHAT, **BEAMS, "max_completion_tokens": 5})
    beams = _expected(client.requests[0].prompt_ids, 3, 5)
    assert [choice["message"]["content"] for choice in answer["choices"]] == list(map(_text, beams))


async def test_best_of_is_the_width_of_a_completions_search() -> None:
    answer = await _answer(FakeClient(_language), TEXT_URL, {**TEXT, "use_beam_search": True, "n": 2, "best_of": 4})
    assert [choice["text"] for choice in answer["choices"]] == list(map(_text, _expected([BOS, *b"ab"], 4, 6)[:2]))


async def test_each_prompt_has_a_search_of_its_own() -> None:
    body = {**TEXT, **BEAMS, "prompt": ["ab", "zz"], "n": 2}
    answer = await _answer(FakeClient(_language), TEXT_URL, body)
    expected = [*_expected([BOS, *b"ab"], 2, 6), *_expected([BOS, *b"zz"], 2, 6)]
    assert [choice["text"] for choice in answer["choices"]] == list(map(_text, expected))


async def test_every_request_is_one_token_on_what_the_cache_has() -> None:
    client = FakeClient(_language)
    await _answer(client, TEXT_URL, {**TEXT, **BEAMS, "cache_salt": "s", "priority": -2, "prompt_logprobs": 0})
    first, *others = client.requests
    assert (first.prompt_ids, first.sampling.prompt_logprobs) == ([BOS, *b"ab"], 0)
    assert {request.sampling.prompt_logprobs for request in others} == {None}
    assert {(request.cache_salt, request.priority) for request in client.requests} == {("s", -2)}
    assert {request.arrival_s for request in others} == {first.arrival_s}
    assert max(len(request.prompt_ids) for request in others) == 3 + 5
    assert len({request.id for request in client.requests}) == len(client.requests)


async def test_log_probabilities_are_of_the_beams_tokens() -> None:
    answer = await _answer(FakeClient(_language), TEXT_URL, {**TEXT, **BEAMS, "logprobs": 2, "echo": True})
    best = _expected([BOS, *b"ab"], 3, 6)[0]
    choice = answer["choices"][0]
    assert choice["text"] == "ab" + _text(best)
    expected = []
    for length, token_id in enumerate(best):
        scores = _likeliest([BOS, *b"ab", *best[:length]], 9)
        expected.append(next(score.logprob for score in scores if score.token_id == token_id))
    assert choice["logprobs"]["token_logprobs"][3:] == pytest.approx(expected)
    assert all(2 <= len(top) <= 3 for top in choice["logprobs"]["top_logprobs"][3:])


async def test_a_stop_token_ends_a_beam() -> None:
    body = {**TEXT, **BEAMS, "stop_token_ids": [ord("c"), ord("d"), ord("e")], "max_tokens": 20}
    answer = await _answer(FakeClient(_language), TEXT_URL, body)
    reasons = {choice["stop_reason"] for choice in answer["choices"] if choice["finish_reason"] == "stop"}
    assert reasons & {ord("c"), ord("d"), ord("e")}


async def test_what_is_counted_is_what_is_given() -> None:
    client = FakeClient(_language)
    app = make_app(client)
    async with http(app) as api:
        answer = (await api.post(TEXT_URL, json={**TEXT, **BEAMS})).json()
        metrics = (await api.get("/metrics")).text
    given = answer["usage"]["completion_tokens"]
    assert f'headrace_generation_tokens_total{{model_name="org/tiny"}} {given}.0' in metrics
    discarded = len(client.requests) - given
    assert f'headrace_discarded_tokens_total{{model_name="org/tiny"}} {discarded}.0' in metrics


async def test_a_full_queue_is_waited_for_once_a_search_has_begun() -> None:
    class FullOnce(FakeClient):
        refusals = 2

        def submit(self, request: SubmittedRequest, *, num_new_tokens: int | None = None) -> FakeStream:
            if len(self.streams) >= 2 and self.refusals:
                self.refusals -= 1
                raise QueueFull("the queue is full", retry_after_s=1)
            return super().submit(request, num_new_tokens=num_new_tokens)

    client = FullOnce(_language)
    answer = await _answer(client, TEXT_URL, {**TEXT, **BEAMS})
    assert client.refusals == 0
    assert answer["choices"][0]["text"] == _text(_expected([BOS, *b"ab"], 3, 6)[0])


async def test_a_queue_without_room_for_a_step_refuses_the_search() -> None:
    client = FakeClient(_language)
    client.capacity = 2
    response = await _post(client, TEXT_URL, {**TEXT, **BEAMS})
    assert response.status_code == 429
    assert client.requests == []


def _hangs_later(request: EngineRequest) -> list[Step]:
    return _language(request) if request.prompt_ids == [BOS, *b"ab"] else [None]


async def test_a_disconnect_aborts_the_step() -> None:
    client = FakeClient(_hangs_later)
    app = make_app(client)
    async with RawRequest(app, TEXT_URL, {**TEXT, **BEAMS}) as request:
        await request.until(lambda: len(client.streams) == 4)
        request.disconnect()
        await request.ended()
    assert client.num_open == 0
    assert [stream.abort_reason for stream in client.streams] == [None, *[AbortReason.CLIENT_GONE] * 3]
    async with http(app) as api:
        metrics = (await api.get("/metrics")).text
    assert 'finished_reason="abort",model_name="org/tiny"} 3.0' in metrics


def _ends(reason: FinishReason, *, after: int) -> Any:
    def script(request: EngineRequest) -> list[Step]:
        if len(request.prompt_ids) < 3 + after:
            return _language(request)
        return [RequestOutput(id=request.id, finish_reason=reason, error="why")]

    return script


async def test_a_search_whose_time_is_over_has_what_it_came_to() -> None:
    client = FakeClient(_ends(FinishReason.TIMEOUT, after=3))
    answer = await _answer(client, TEXT_URL, {**TEXT, **BEAMS, "timeout": 5})
    expected = _expected([BOS, *b"ab"], 3, 3)
    assert [choice["text"] for choice in answer["choices"]] == list(map(_text, expected))
    cut = [choice["stop_reason"] for choice in answer["choices"] if choice["finish_reason"] == "length"]
    assert cut
    assert set(cut) == {"timeout"}


@pytest.mark.parametrize(
    ("reason", "after", "status"),
    [(FinishReason.TIMEOUT, 0, 504), (FinishReason.ERROR, 2, 500), (FinishReason.ABORT, 2, 503)],
)
async def test_an_engine_that_ends_a_step_ends_the_request(reason: FinishReason, after: int, status: int) -> None:
    client = FakeClient(_ends(reason, after=after))
    response = await _post(client, TEXT_URL, {**TEXT, **BEAMS, "timeout": 5})
    assert response.status_code == status
    assert client.num_open == 0


async def test_fields_of_a_draw_are_listed() -> None:
    fields = {"temperature": 0.7, "top_p": 0.9, "top_k": 5, "min_p": 0.1, "seed": 1}
    response = await _post(FakeClient(_language), TEXT_URL, {**TEXT, **BEAMS, **fields}, strict_parameters=True)
    assert response.headers["x-ignored-parameters"] == "temperature, top_p, top_k, min_p, seed"


@pytest.mark.parametrize(
    ("path", "fields", "param"),
    [
        (TEXT_URL, {"stream": True}, "use_beam_search"),
        (CHAT_URL, {"stream": True}, "use_beam_search"),
        (TEXT_URL, {"n": 33}, "n"),
        (TEXT_URL, {"best_of": 33}, "best_of"),
        (TEXT_URL, {"best_of": 2}, "best_of"),
        (TEXT_URL, {"max_tokens": 0, "echo": True}, "max_tokens"),
        (TEXT_URL, {"stop": ["x"]}, "stop"),
        (TEXT_URL, {"presence_penalty": 1.0}, "presence_penalty"),
        (TEXT_URL, {"logit_bias": {"5": 1}}, "logit_bias"),
        (TEXT_URL, {"logprobs": 1, "logprob_token_ids": [5]}, "logprob_token_ids"),
        (TEXT_URL, {"bad_words": ["x"]}, "bad_words"),
        (TEXT_URL, {"early_stopping": "sometimes"}, "early_stopping"),
        (TEXT_URL, {"guided_regex": "a+"}, "guided_regex"),
        (CHAT_URL, {"response_format": {"type": "json_object"}}, "response_format"),
        (CHAT_URL, {"tools": [{"type": "function", "function": {"name": "f"}}], "tool_choice": "required"}, "tools"),
        (TEXT_URL, {"use_beam_search": False, "length_penalty": 2.0}, "length_penalty"),
        (TEXT_URL, {"use_beam_search": None, "early_stopping": True}, "early_stopping"),
    ],
)
async def test_what_does_not_go_with_beams_is_refused(path: str, fields: dict[str, Any], param: str) -> None:
    body = {**(CHAT if path == CHAT_URL else TEXT), **BEAMS, **fields}
    response = await _post(FakeClient(says("x"), engine_info(max_num_seqs=64)), path, body)
    assert response.status_code == 400, response.text
    assert response.json()["error"]["param"] == param
