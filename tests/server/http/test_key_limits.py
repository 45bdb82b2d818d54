"""The rest of a key's limits in headers, and refusals beyond the limits."""

import asyncio
from collections.abc import Callable

import pytest

from engine.protocol import EngineRequest, FinishReason, RequestOutput
from server.http.middleware.rate_headers import duration_text
from tests.helpers.asgi import DEFAULT_HEADERS, RawRequest
from tests.helpers.fake_client import MODEL, FakeClient, Step, http, make_app, says
from tests.helpers.key_site import CHAT, TEXT, Site, sample, waits
from tests.helpers.keys import bearer, entry

pytestmark = pytest.mark.fast

RATES = {"requests_per_minute": 3, "tokens_per_minute": 600}


async def test_every_answer_tells_what_is_left(site: Callable[..., Site]) -> None:
    here = site(entry("ann", **RATES))
    here.stop_time()
    async with here.api("ann") as ann:
        whole = await ann.post("/v1/chat/completions", json=CHAT)
        stream = await ann.post("/v1/chat/completions", json={**CHAT, "stream": True})
        wrong = await ann.post("/v1/chat/completions", json={**CHAT, "temperature": -1})
        refused = await ann.post("/v1/chat/completions", json=CHAT)
        models = await ann.get("/v1/models")
    answers = [whole, stream, wrong, refused, models]
    assert [answer.status_code for answer in answers] == [200, 200, 400, 429, 200]
    assert [answer.headers["x-ratelimit-limit-requests"] for answer in answers] == ["3"] * 5
    assert [answer.headers["x-ratelimit-remaining-requests"] for answer in answers] == ["2", "1", "0", "0", "0"]
    assert {answer.headers["x-ratelimit-limit-tokens"] for answer in answers} == {"600"}
    # A whole answer is settled when its head is sent; a stream reserves all that it may have, which this one uses.
    used = whole.json()["usage"]["total_tokens"]
    left = [int(answer.headers["x-ratelimit-remaining-tokens"]) for answer in answers]
    assert left == [600 - used, *[600 - 2 * used] * 4]
    assert whole.headers["x-ratelimit-reset-requests"] == "20s"
    assert stream.headers["x-ratelimit-reset-tokens"] == f"{2 * used / 10:g}s"
    assert refused.json()["error"]["code"] == "rate_limit_exceeded"
    assert refused.headers["retry-after"] == "20"
    assert here.client.num_open == 0
    assert len(here.client.requests) == 2


async def test_anthropics_headers_are_its_own(site: Callable[..., Site]) -> None:
    here = site(entry("ann", **RATES))
    body = {"model": MODEL, "max_tokens": 5, "messages": CHAT["messages"]}
    here.stop_time()
    async with here.api("ann") as ann:
        answers = [await ann.post("/v1/messages", json=body) for _ in range(4)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
    for answer in answers:
        assert answer.headers["anthropic-ratelimit-requests-limit"] == "3"
        assert answer.headers["anthropic-ratelimit-requests-reset"].endswith("Z")
        assert not any(name.startswith("x-ratelimit") for name in answer.headers)
    assert answers[3].headers["anthropic-ratelimit-requests-remaining"] == "0"
    assert answers[3].json()["error"]["type"] == "rate_limit_error"
    assert "retry-after" in answers[3].headers


async def test_keys_without_rates_and_servers_without_keys_tell_nothing(site: Callable[..., Site]) -> None:
    here = site(entry("ann", max_concurrency=5))
    async with here.api("ann") as ann, http(make_app(FakeClient(says("x")))) as bare:
        for answer in (await ann.post("/v1/completions", json=TEXT), await bare.post("/v1/completions", json=TEXT)):
            assert answer.status_code == 200
            assert not any("ratelimit" in name for name in answer.headers)


async def test_a_key_does_not_use_anothers_limits(site: Callable[..., Site]) -> None:
    here = site(entry("ann", requests_per_minute=1), entry("ben", requests_per_minute=1))
    here.stop_time()
    async with here.api("ann") as ann, here.api("ben") as ben:
        statuses = [(await each.post("/v1/completions", json=TEXT)).status_code for each in (ann, ann, ben)]
    assert statuses == [200, 429, 200]


async def test_tokens_are_given_back_when_the_engine_refuses(site: Callable[..., Site]) -> None:
    here = site(entry("ann", tokens_per_minute=100, max_concurrency=1))
    here.stop_time()
    async with here.api("ann") as ann:
        here.client.capacity = 0
        assert (await ann.post("/v1/completions", json=TEXT)).status_code == 429
        here.client.capacity = 10
        answer = await ann.post("/v1/completions", json={**TEXT, "n": 9})
    assert answer.status_code == 200, answer.text


async def test_a_prompt_that_is_left_before_its_first_token_counts(site: Callable[..., Site]) -> None:
    here = site(entry("ann", tokens_per_minute=100), script=lambda _: [None])
    here.stop_time()
    headers = [*DEFAULT_HEADERS, (b"authorization", bearer("ann")["authorization"].encode())]
    async with RawRequest(here.app, "/v1/completions", TEXT, headers=headers) as running:
        await running.until(lambda: bool(here.client.streams))
        running.disconnect()
        await running.ended()
    here.client.script = says("Hell")
    async with here.api("ann") as ann:
        answer = await ann.post("/v1/completions", json=TEXT)
    num_prompt = answer.json()["usage"]["prompt_tokens"]
    assert int(answer.headers["x-ratelimit-remaining-tokens"]) == 100 - 2 * num_prompt - 4


async def test_tokens_beyond_the_rate_are_refused_before_anything_runs(site: Callable[..., Site]) -> None:
    here = site(entry("ann", tokens_per_minute=30))
    here.stop_time()
    async with here.api("ann") as ann:
        fits = await ann.post("/v1/completions", json={**TEXT, "max_tokens": 5, "n": 3})
        never = await ann.post("/v1/completions", json={**TEXT, "max_tokens": 50})
    assert (fits.status_code, never.status_code) == (200, 429)
    assert never.headers["x-should-retry"] == "false"
    assert "retry-after" not in never.headers
    assert never.json()["error"]["type"] == "tokens"
    assert len(here.client.requests) == 3


async def test_requests_at_a_time_count_until_they_end(site: Callable[..., Site]) -> None:
    here = site(entry("ann", max_concurrency=1), script=waits)
    headers = [*DEFAULT_HEADERS, (b"authorization", bearer("ann")["authorization"].encode())]
    running = RawRequest(here.app, "/v1/completions", {**TEXT, "stream": True}, headers=headers)
    async with running, here.api("ann") as ann:
        await running.until(lambda: running.status == 200)
        refused = await ann.post("/v1/completions", json=TEXT)
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
        running.disconnect()
        await running.ended()
        here.client.script = says("Hello")
        assert (await ann.post("/v1/completions", json=TEXT)).status_code == 200


async def test_a_spent_budget_is_openais_insufficient_quota(site: Callable[..., Site]) -> None:
    here = site(entry("ann", budget_tokens=20, budget_period="day"))
    async with here.api("ann") as ann:
        first = await ann.post("/v1/completions", json=TEXT)
        second = await ann.post("/v1/completions", json=TEXT)
        usage = (await ann.get("/v1/usage")).json()
    spent = first.json()["usage"]["total_tokens"]
    assert (first.status_code, second.status_code) == (200, 429)
    assert second.json()["error"]["code"] == second.json()["error"]["type"] == "insufficient_quota"
    assert second.headers["x-should-retry"] == "false"
    assert 0 < int(second.headers["retry-after"]) <= 86400
    for answer, left in ((first, 20 - spent), (second, 20 - spent)):
        assert answer.headers["x-ratelimit-limit-tokens"] == "20"
        assert answer.headers["x-ratelimit-remaining-tokens"] == str(left)
        assert answer.headers["x-ratelimit-reset-tokens"].endswith("s")
        assert "x-ratelimit-limit-requests" not in answer.headers
    (budget,) = usage["budgets"]
    assert (budget["budget_tokens"], budget["used_tokens"], budget["period"]) == (20, spent, "day")
    assert sample(here.app, "headrace_key_refusals_total", key="ann", limit="budget") == 1


async def test_a_storm_over_the_limit_is_let_in_exactly_as_far(site: Callable[..., Site]) -> None:
    here = site(entry("ann", requests_per_minute=20))
    here.stop_time()
    async with here.api("ann") as ann:
        answers = await asyncio.gather(*(ann.post("/v1/completions", json=TEXT) for _ in range(100)))
    statuses = [answer.status_code for answer in answers]
    assert (statuses.count(200), statuses.count(429)) == (20, 80)
    assert sample(here.app, "headrace_key_requests_total", key="ann", outcome="refused") == 80


async def test_a_request_that_the_server_has_no_room_for_is_not_counted(site: Callable[..., Site]) -> None:
    """Before its body is read, and when its prompt is known."""
    here = site(entry("ann", requests_per_minute=2))
    here.stop_time()
    async with here.api("ann") as ann:
        here.client.capacity = 0
        full = [
            await ann.post("/v1/completions", json=TEXT),
            await ann.post("/api/generate", json={"model": MODEL, "prompt": "hi", "stream": False}),
        ]
        here.client.capacity = 1000
        answers = [await ann.post("/v1/completions", json=TEXT) for _ in range(3)]
    assert [answer.status_code for answer in (*full, *answers)] == [429, 429, 200, 200, 429]
    left = [answer.headers["x-ratelimit-remaining-requests"] for answer in (*full, *answers)]
    assert left == ["2", "2", "1", "0", "0"]


async def test_a_request_that_waits_too_long_is_not_counted(site: Callable[..., Site]) -> None:
    here = site(entry("ann", requests_per_minute=2), script=_waits_too_long, queue_timeout=5.0)
    here.stop_time()
    async with here.api("ann") as ann:
        late = await ann.post("/v1/completions", json=TEXT)
    assert (late.status_code, late.headers["x-ratelimit-remaining-requests"]) == (503, "2")


def _waits_too_long(request: EngineRequest) -> list[Step]:
    return [RequestOutput(id=request.id, finish_reason=FinishReason.QUEUE_TIMEOUT)]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (0.0001, "1ms"),
        (0.028, "28ms"),
        (1, "1s"),
        (8.64, "8.64s"),
        (59.9999, "1m0s"),
        (72.5, "1m12.5s"),
        (360, "6m0s"),
        (3600, "1h0m0s"),
        (5025.25, "1h23m45.25s"),
    ],
)
def test_durations_are_written_as_go_does(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text


# --- models, metrics, operators ---------------------------------------------------------------------------------------
