"""After a mixed load the counters equal the sums over what its clients got: in every protocol, whole and streamed, with
several choices, clients that leave, refusals, time-outs and failures."""

import asyncio
import random
from collections import Counter
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from prometheus_client.parser import text_string_to_metric_families

from engine.protocol import EngineRequest, FinishReason, RequestOutput
from tests.helpers.answered_tokens import AnsweredTokens, answered_tokens
from tests.helpers.asgi import RawRequest
from tests.helpers.fake_client import MODEL, FakeClient, Step, http, make_app, says

pytestmark = pytest.mark.fast

Request = tuple[str, dict[str, Any]]


def _chat(text: str = "hi", **fields: Any) -> Request:
    return "/v1/chat/completions", {"messages": [{"role": "user", "content": text}], **fields}


def _streamed(**fields: Any) -> dict[str, Any]:
    return {"stream": True, "stream_options": {"include_usage": True}, **fields}


def _user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


COMPLETED: tuple[Request, ...] = (
    _chat(),
    _chat(n=3),
    _chat(**_streamed()),
    _chat(**_streamed(n=2)),
    _chat(stop="w"),  # which throws away what its step brought beside it
    _chat("stops"),
    ("/v1/completions", {"prompt": "abc"}),
    ("/v1/completions", {"prompt": ["one", "other"], "n": 2}),
    ("/v1/completions", {"prompt": ["one", "other"], **_streamed()}),
    ("/v1/completions", {"prompt": "abc", "max_tokens": 0, "echo": True, "logprobs": 1}),
    ("/v1/messages", {"messages": _user("hi"), "max_tokens": 30}),
    ("/v1/messages", {"messages": _user("stops"), "max_tokens": 30, "stream": True}),
    ("/v1/responses", {"input": "hi"}),
    ("/v1/responses", {"input": "hi", "stream": True}),
    ("/api/chat", {"model": MODEL, "messages": _user("hi")}),
    ("/api/generate", {"model": MODEL, "prompt": "hi", "stream": False}),
)
REFUSED: tuple[Request, ...] = (
    _chat(n=0),
    _chat(model="other"),
    _chat(max_tokens=10**6),
    ("/v1/completions", {"prompt": 7}),
    ("/v1/messages", {"messages": _user("hi")}),
    ("/api/create", {}),
    ("/nothing", {}),
)
TIMED_OUT: tuple[Request, ...] = (_chat("late"), _chat("late", **_streamed()))
FAILED: tuple[Request, ...] = (_chat("fail"), _chat("fail", **_streamed(n=1)))
LEFT: tuple[Request, ...] = (_chat("hang", **_streamed()), ("/v1/completions", {"prompt": "hang", "stream": True}))


def _script(request: EngineRequest) -> list[Step]:
    """Return the engine's outputs, which the prompt describes."""
    text = bytes(token_id for token_id in request.prompt_ids if token_id < 256).decode()
    if request.sampling.max_tokens == 0:
        return says("")(request)
    first = RequestOutput(id=request.id, new_ids=[72], num_cached_tokens=2, queue_s=0.25)
    if "hang" in text:
        return [first, None]
    if "fail" in text:
        return [first, RequestOutput(id=request.id, finish_reason=FinishReason.ERROR, error="not finite")]
    if "late" in text:
        return [first, RequestOutput(id=request.id, num_cached_tokens=2, finish_reason=FinishReason.TIMEOUT)]
    finish = FinishReason.STOP if "stops" in text else FinishReason.LENGTH
    return says("some words", per_step=3, finish=finish)(request)


class _Load:
    """A load on one server, and what its clients got."""

    def __init__(self) -> None:
        self.client = FakeClient(_script)
        self.app: FastAPI = make_app(self.client)
        self.got: list[AnsweredTokens] = []
        self.statuses: Counter[int] = Counter()

    async def send(self, api: httpx.AsyncClient, request: Request, *, tells_usage: bool = True) -> None:
        path, body = request
        response = await api.post(path, json=body)
        self.statuses[response.status_code] += 1
        if response.status_code == 200 and tells_usage:
            self.got.append(answered_tokens(response))

    async def leave(self, request: Request) -> None:
        """Read the first piece of a stream, and close the connection."""
        path, body = request
        async with RawRequest(self.app, path, body) as raw:
            await raw.until(lambda: b'"H"' in raw.body)
            raw.disconnect()
            await raw.ended()
        self.statuses[499] += 1

    async def run(self, seed: int, repeat: int = 2) -> None:
        """All kinds of requests at once, in an order of their own."""
        async with http(self.app) as api:
            work = [self.send(api, request) for request in (*COMPLETED, *REFUSED, *TIMED_OUT) * repeat]
            work += [self.send(api, request, tells_usage=False) for request in FAILED * repeat]
            work += [self.leave(request) for request in LEFT * repeat]
            random.Random(seed).shuffle(work)
            await asyncio.gather(*work)
            self.client.capacity = 0
            await self.send(api, _chat())

    async def metrics(self) -> dict[str, Any]:
        """Samples by name and label values, without the model's name."""
        async with http(self.app) as api:
            text = (await api.get("/metrics")).text
        return {
            " ".join([sample.name, *(v for k, v in sample.labels.items() if k != "model_name")]): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }


REPEAT = 2


@pytest.mark.parametrize("seed", [1, 2])
async def test_counters_equal_the_sums_over_the_answers(seed: int) -> None:
    load = _Load()
    await load.run(seed, REPEAT)
    values = await load.metrics()

    # Failed and abandoned requests tell no usage; each has one token, and its prompt has run.
    untold = [len(s.request.prompt_ids) for s in load.client.streams if _is_untold(s.request)]
    assert len(untold) == REPEAT * (len(FAILED) + len(LEFT))
    assert values["headrace_prompt_tokens_total"] == sum(tokens.prompt for tokens in load.got) + sum(untold)
    assert values["headrace_generation_tokens_total"] == sum(tokens.output for tokens in load.got) + len(untold)
    ollama = REPEAT * 2  # its answers do not tell what was cached: 2 tokens of each prompt
    cached = sum(tokens.cached or 0 for tokens in load.got) + 2 * (ollama + len(untold))
    assert values["headrace_prompt_tokens_cached_total"] == cached
    assert values["headrace_prompt_tokens_by_source_total local_cache_hit"] == cached
    assert (
        values["headrace_prompt_tokens_by_source_total local_compute"]
        == values["headrace_prompt_tokens_total"] - cached
    )
    assert values["headrace_wasted_tokens_total abort"] == REPEAT * len(LEFT)
    assert values["headrace_wasted_tokens_total error"] == REPEAT * len(FAILED)


def _is_untold(request: EngineRequest) -> bool:
    text = bytes(token_id for token_id in request.prompt_ids if token_id < 256)
    return b"hang" in text or b"fail" in text


async def test_every_choice_is_in_every_metric_of_choices() -> None:
    load = _Load()
    await load.run(3, REPEAT)
    values = await load.metrics()
    num_choices = len(load.client.streams)
    ended = {reason: values[f"headrace_request_success_total {reason}"] for reason in FinishReason}
    assert ended == {
        "stop": REPEAT * 3,
        "length": num_choices - REPEAT * (3 + len(TIMED_OUT) + len(LEFT) + len(FAILED)),
        "timeout": REPEAT * len(TIMED_OUT),
        "queue_timeout": 0,
        "abort": REPEAT * len(LEFT),
        "error": REPEAT * len(FAILED),
    }
    for name in (
        "e2e_request_latency_seconds",
        "request_queue_time_seconds",
        "request_prefill_time_seconds",
        "request_inference_time_seconds",
        "request_generation_tokens",
    ):
        assert values[f"headrace_{name}_count"] == num_choices, name
    assert values["headrace_queue_time_seconds_count scheduled"] == num_choices
    assert values["headrace_request_generation_tokens_sum"] == values["headrace_generation_tokens_total"]
    num_without_token = REPEAT  # the echo
    assert values["headrace_time_to_first_token_seconds_count"] == num_choices - num_without_token
    assert values["headrace_inter_token_latency_seconds_count"] == (
        values["headrace_generation_tokens_total"] - values["headrace_time_to_first_token_seconds_count"]
    )


async def test_every_prompt_is_in_every_metric_of_prompts() -> None:
    load = _Load()
    await load.run(4, REPEAT)
    values = await load.metrics()
    prompts = [s.request for s in load.client.streams if _is_first_of_its_prompt(s.request)]
    for name in ("request_prompt_tokens", "request_params_n", "request_params_max_tokens"):  # a full queue reads none
        assert values[f"headrace_{name}_count"] == len(prompts), name
    assert values["headrace_request_prefill_kv_computed_tokens_count"] == len(prompts)
    assert values["headrace_request_max_num_generation_tokens_count"] == len(prompts)
    computed = values["headrace_prompt_tokens_by_source_total local_compute"]
    assert values["headrace_request_prefill_kv_computed_tokens_sum"] == computed
    assert values["headrace_request_params_n_sum"] <= len(load.client.streams)


def _is_first_of_its_prompt(request: EngineRequest) -> bool:
    """By its number within the HTTP request; prompts with several choices here have 2 or 3 of them."""
    number = int(request.id.rpartition("-")[2])
    text = bytes(token_id for token_id in request.prompt_ids if token_id < 256)
    return number == 0 or (text == b"other" and number in (1, 2))


async def test_every_request_has_one_outcome() -> None:
    load = _Load()
    await load.run(5, REPEAT)
    values = await load.metrics()
    outcomes: Counter[str] = Counter()
    codes: Counter[str] = Counter()
    for name, value in values.items():
        if name.startswith("headrace_requests_total "):
            _, code, outcome, _ = name.split(" ")  # labels come in alphabetical order
            outcomes[outcome] += value
            codes[code] += value
    assert outcomes == {
        "completed": REPEAT * len(COMPLETED),
        "refused": REPEAT * len(REFUSED) + 1,
        "timeout": REPEAT * len(TIMED_OUT),
        "failed": REPEAT * len(FAILED),
        "aborted": REPEAT * len(LEFT),
    }
    assert codes["generation_failed"] == REPEAT * len(FAILED)
    assert codes["rate_limit_exceeded"] == 1
    assert codes["model_not_found"] == codes["not_served"] == codes["not_found"] == REPEAT
    assert codes["none"] == REPEAT * len((*COMPLETED, *TIMED_OUT, *LEFT))


async def test_http_metrics_count_every_answer() -> None:
    load = _Load()
    await load.run(6, REPEAT)
    values = await load.metrics()
    by_status: Counter[int] = Counter()
    for name, value in values.items():
        if name.startswith("headrace_http_requests_total "):
            by_status[int(name.rpartition(" ")[2])] += int(value)
            _, method, route, status = name.split(" ")
            for metric in ("request_duration_seconds", "request_size_bytes", "response_size_bytes"):
                assert values[f"headrace_http_{metric}_count {method} {route} {status}"] == value
    assert by_status == load.statuses


async def test_series_do_not_grow_with_the_load() -> None:
    load = _Load()
    await load.run(7, 1)
    first = await load.metrics()
    load.client.capacity = 1000
    await load.run(8, 3)
    second = await load.metrics()
    grown = {name for name in second.keys() - first.keys() if "/metrics" not in name}  # the first look at it
    assert grown == set()
