"""Named keys over HTTP: who is let in, what is left of limits, and what belongs to whom."""

import asyncio
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from engine.protocol import EngineRequest, FinishReason, RequestOutput
from server.http.rate_headers import duration_text
from server.routes import usage
from tests.helpers.asgi import DEFAULT_HEADERS, RawRequest
from tests.helpers.fake_client import MODEL, FakeClient, Step, http, make_app, says
from tests.helpers.keys import bearer, entry, write_keys

pytestmark = pytest.mark.fast

CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 5}
TEXT: dict[str, Any] = {"prompt": "abcdefgh", "max_tokens": 4}


class Site:
    """An application whose keys file has these entries."""

    def __init__(self, path: Path, client: FakeClient, *entries: dict[str, Any], **options: Any) -> None:
        self.path = path / "keys.json"
        self.client = client
        self.app = make_app(client, api_keys_file=write_keys(self.path, *entries), **options)

    def api(self, name: str) -> httpx.AsyncClient:
        return http(self.app, **bearer(name))

    def stop_time(self) -> None:
        """Have no rate bring anything any more."""
        for account in self.app.state.context.keys.ring._accounts.values():
            for bucket in (account.requests, account.tokens):
                if bucket is not None:
                    bucket._clock = partial(float, bucket._clock())

    async def change(self, *entries: dict[str, Any]) -> None:
        """Write the file and have it read, as two of the server's looks do."""
        write_keys(self.path, *entries)
        watcher = self.app.state.context.keys._watcher
        await watcher.look()
        await watcher.look()


@pytest.fixture
def site(tmp_path: Path) -> Callable[..., Site]:
    return lambda *entries, script=None, **options: Site(
        tmp_path, FakeClient(script or says("Hello")), *entries, **options
    )


def _waits(request: EngineRequest) -> list[Step]:
    """A script that says a word and waits to be aborted."""
    return [*says("Hello")(request)[:2], None]


async def test_only_keys_of_the_file_are_let_in(site: Callable[..., Site]) -> None:
    here = site(entry("ann"))
    async with here.api("ann") as ann, here.api("eve") as eve, http(here.app) as bare:
        statuses = [(await each.post("/v1/completions", json=TEXT)).status_code for each in (ann, eve, bare)]
        assert statuses == [200, 401, 401]
        assert (await bare.get("/live")).status_code == 200


async def test_a_removed_key_ends_and_what_it_runs_goes_on(site: Callable[..., Site]) -> None:
    here = site(entry("ann"), entry("ben"), script=_waits)
    headers = [(b"authorization", bearer("ann")["authorization"].encode())]
    running = RawRequest(here.app, "/v1/completions", {**TEXT, "stream": True}, headers=[*DEFAULT_HEADERS, *headers])
    async with running, here.api("ann") as ann, here.api("ben") as ben:
        await running.until(lambda: running.status == 200)
        await here.change(entry("ben"))
        assert (await ann.get("/v1/models")).status_code == 401
        assert (await ben.get("/v1/models")).status_code == 200
        assert not running.has_ended
        assert here.client.streams[0].abort_reason is None


async def test_a_broken_file_changes_nothing(site: Callable[..., Site]) -> None:
    here = site(entry("ann"))
    await here.change({"name": "ann", "hash": "oops"})
    async with here.api("ann") as ann:
        assert (await ann.get("/v1/models")).status_code == 200


async def test_an_expired_key_is_told_so(site: Callable[..., Site]) -> None:
    here = site(entry("ann", expires="2020-01-01T00:00:00Z"))
    async with here.api("ann") as ann:
        refused = await ann.post("/v1/completions", json=TEXT)
    assert refused.status_code == 401
    assert refused.json()["error"]["code"] == "invalid_api_key"
    assert "'ann' expired at 2020-01-01T00:00:00Z" in refused.json()["error"]["message"]
    assert _sample(here.app, "headrace_key_refusals_total", key="ann", limit="expired") == 1


# --- rates ------------------------------------------------------------------------------------------------------------

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
    here = site(entry("ann", max_concurrency=1), script=_waits)
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
    assert _sample(here.app, "headrace_key_refusals_total", key="ann", limit="budget") == 1


async def test_a_storm_over_the_limit_is_let_in_exactly_as_far(site: Callable[..., Site]) -> None:
    here = site(entry("ann", requests_per_minute=20))
    here.stop_time()
    async with here.api("ann") as ann:
        answers = await asyncio.gather(*(ann.post("/v1/completions", json=TEXT) for _ in range(100)))
    statuses = [answer.status_code for answer in answers]
    assert (statuses.count(200), statuses.count(429)) == (20, 80)
    assert _sample(here.app, "headrace_key_requests_total", key="ann", outcome="refused") == 80


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


async def test_a_key_has_its_models_alone(site: Callable[..., Site]) -> None:
    here = site(entry("ann", models=["small"]), entry("ben"), served_model_name=("large", "small"))
    async with here.api("ann") as ann, here.api("ben") as ben:
        listed = [[card["id"] for card in (await each.get("/v1/models")).json()["data"]] for each in (ann, ben)]
        tags = [card["name"] for card in (await ann.get("/api/tags")).json()["models"]]
        named = await ann.post("/v1/completions", json={**TEXT, "model": "small"})
        other = await ann.post("/v1/completions", json={**TEXT, "model": "large"})
        unnamed = await ann.post("/v1/completions", json=TEXT)
        card = await ann.get("/v1/models/large")
        ollama = await ann.post("/api/chat", json={"model": "large", "messages": CHAT["messages"]})
    assert listed == [["small"], ["large", "small"]]
    assert tags == ["small:latest"]
    assert named.status_code == 200
    assert [each.status_code for each in (other, unnamed, card, ollama)] == [404] * 4
    assert other.json()["error"]["code"] == "model_not_found"
    assert other.json()["error"]["message"] == "the model 'large' is not served here; this server has 'small'"


async def test_a_key_without_models_reads_metrics_alone(site: Callable[..., Site]) -> None:
    here = site(entry("prometheus", metrics=True, models=[]), entry("ann"), entry("root", admin=True))
    async with here.api("prometheus") as prometheus, here.api("ann") as ann, here.api("root") as root:
        statuses = [(await each.get("/metrics")).status_code for each in (prometheus, ann, root)]
        models = (await prometheus.get("/v1/models")).json()
        tried = await prometheus.post("/v1/completions", json=TEXT)
        refused = await ann.get("/metrics")
    assert statuses == [200, 403, 200]
    assert refused.json()["error"]["code"] == "insufficient_permissions"
    assert (models["data"], models["first_id"]) == ([], None)
    assert tried.status_code == 404


async def test_beside_a_keys_file_a_key_of_the_options_is_no_operator(site: Callable[..., Site]) -> None:
    here = site(entry("root", admin=True), api_key=("plain",))
    async with http(here.app, authorization="Bearer plain") as plain, here.api("root") as root:
        assert (await plain.post("/v1/completions", json=TEXT)).status_code == 200
        assert (await plain.get("/metrics")).status_code == 403
        assert (await plain.get("/v1/usage")).status_code == 403
        assert (await root.get("/metrics")).status_code == 200


async def test_of_a_key_in_both_the_file_counts(tmp_path: Path) -> None:
    path = write_keys(tmp_path / "keys.json", entry("root", admin=True))
    app = make_app(FakeClient(says("x")), api_keys_file=path, api_key=("secret-root",))
    async with http(app, **bearer("root")) as root:
        assert (await root.get("/metrics")).status_code == 200


# --- what belongs to whom ---------------------------------------------------------------------------------------------


async def test_what_a_name_stored_stays_its_own_when_it_gets_another_key(site: Callable[..., Site]) -> None:
    here = site(entry("ann"), entry("ben"))
    async with here.api("ann") as ann, here.api("ben") as ben, here.api("another") as another:
        stored = (await ann.post("/v1/responses", json={"input": "hi", "max_output_tokens": 5})).json()["id"]
        assert (await ben.get(f"/v1/responses/{stored}")).status_code == 404
        await here.change({**entry("ann"), "hash": entry("another")["hash"]}, entry("ben"))
        assert (await ann.get(f"/v1/responses/{stored}")).status_code == 401
        assert (await another.get(f"/v1/responses/{stored}")).status_code == 200


async def test_the_engine_is_told_whose_a_request_is(site: Callable[..., Site]) -> None:
    here = site(entry("ann", weight=3), entry("ben"), api_key=("plain",))
    async with here.api("ann") as ann, here.api("ben") as ben, http(here.app, authorization="Bearer plain") as plain:
        for api in (ann, ben, plain):
            await api.post("/v1/completions", json=TEXT)
        await ann.post("/v1/completions", json={**TEXT, "use_beam_search": True, "best_of": 2})
    told = [(request.tenant, request.tenant_weight) for request in here.client.requests]
    assert told[:3] == [("ann", 3.0), ("ben", 1.0), ("--api-key 1", 1.0)]
    assert set(told[3:]) == {("ann", 3.0)}


async def _salts(here: Site, *names: str, salt: str | None = None) -> list[str]:
    for name in names:
        async with here.api(name) as api:
            await api.post("/v1/completions", json={**TEXT, "cache_salt": salt} if salt else TEXT)
    return [request.cache_salt for request in here.client.requests[-len(names) :]]


async def test_cached_prefixes_are_a_keys_own(site: Callable[..., Site]) -> None:
    here = site(entry("ann"), entry("ben"), entry("x", cache_group="team"), entry("y", cache_group="team"))
    ann, ben, again, x, y = await _salts(here, "ann", "ben", "ann", "x", "y")
    assert ann == again
    assert x == y
    assert len({ann, ben, x}) == 3
    (salted,) = await _salts(here, "ann", salt="mine")
    (forged,) = await _salts(here, "ben", salt=ann)
    assert len({ann, ben, salted, forged}) == 4
    assert await _salts(here, "ann", salt="mine") == [salted]


async def test_a_keys_salt_cannot_be_made_up_by_a_key_without_a_name(site: Callable[..., Site]) -> None:
    here = site(entry("ann"), api_key=("plain",))
    (ann,) = await _salts(here, "ann")
    async with http(here.app, authorization="Bearer plain") as plain:
        await plain.post("/v1/completions", json={**TEXT, "cache_salt": ann})
    assert here.client.requests[-1].cache_salt != ann


async def test_cached_prefixes_are_shared_where_that_is_asked_for(site: Callable[..., Site]) -> None:
    here = site(entry("ann"), entry("ben"), entry("x", cache_group="team"), share_prefix_cache=True)
    ann, ben, x = await _salts(here, "ann", "ben", "x")
    assert ann == ben == ""
    assert x != ann
    forged, plain = await _salts(here, "ann", salt=x) + await _salts(here, "ann", salt="mine")
    assert (forged, plain) == (f"0:{x}", "mine")


async def test_without_keys_salts_are_the_requests_own() -> None:
    client = FakeClient(says("x"))
    async with http(make_app(client)) as api:
        for body in (TEXT, {**TEXT, "cache_salt": "mine"}):
            await api.post("/v1/completions", json=body)
    assert [request.cache_salt for request in client.requests] == ["", "mine"]
    assert {(request.tenant, request.tenant_weight) for request in client.requests} == {("", 1.0)}


# --- usage ------------------------------------------------------------------------------------------------------------


async def test_usage_is_the_sum_of_a_keys_answers(site: Callable[..., Site], tmp_path: Path) -> None:
    log = tmp_path / "usage.jsonl"
    here = site(entry("ann"), entry("ben"), entry("root", admin=True), usage_log=str(log))
    async with here.api("ann") as ann, here.api("ben") as ben, here.api("root") as root:
        answers = [
            await ann.post("/v1/chat/completions", json=CHAT),
            await ann.post("/v1/completions", json={**TEXT, "prompt": ["ab", "cd"], "n": 2}),
        ]
        await ann.post("/v1/completions", json={**TEXT, "max_tokens": -1})
        await ben.post("/v1/completions", json=TEXT)
        own = (await ann.get("/v1/usage")).json()
        theirs = await ann.get("/v1/usage", params={"key": "ben"})
        all_keys = (await root.get("/v1/usage", params={"bucket": "day"})).json()
        bens = (await root.get("/v1/usage", params={"key": "ben"})).json()
    sums = [answer.json()["usage"] for answer in answers]
    (bucket,) = own["data"]
    assert bucket["key"] == "ann"
    assert bucket["requests"] == {"completed": 2, "refused": 1}
    assert bucket["prompt_tokens"] == sum(usage["prompt_tokens"] for usage in sums)
    assert bucket["output_tokens"] == sum(usage["completion_tokens"] for usage in sums)
    assert bucket["cached_tokens"] == sum(usage["prompt_tokens_details"]["cached_tokens"] for usage in sums)
    assert bucket["total_tokens"] == sum(usage["total_tokens"] for usage in sums)
    assert theirs.status_code == 403
    assert [each["key"] for each in all_keys["data"]] == ["ann", "ben"]
    assert [each["key"] for each in bens["data"]] == ["ben"]
    assert _sample(here.app, "headrace_key_output_tokens_total", key="ann") == bucket["output_tokens"]
    assert _sample(here.app, "headrace_key_prompt_tokens_total", key="ann") == bucket["prompt_tokens"]
    await here.app.state.context.keys._log.close()
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [line["key"] for line in lines] == ["ann", "ann", "ann", "ben"]
    assert sum(line["output_tokens"] for line in lines if line["key"] == "ann") == bucket["output_tokens"]
    assert [line["request_id"] for line in lines[:2]] == [answer.headers["x-request-id"] for answer in answers]


async def test_a_refused_requests_record_names_its_route(site: Callable[..., Site], tmp_path: Path) -> None:
    log = tmp_path / "usage.jsonl"
    here = site(entry("ann", requests_per_minute=1), usage_log=str(log))
    here.stop_time()
    async with here.api("ann") as ann:
        for path in ("/v1/completions", "/v1/completions", "/v1/responses/resp_x/cancel"):
            await ann.post(path, json=TEXT)
    await here.app.state.context.keys._log.close()
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [(line["route"], line["status"]) for line in lines] == [
        ("/v1/completions", 200),
        ("/v1/completions", 429),
        ("unmatched", 429),
    ]


async def test_an_aborted_request_counts_what_it_had(site: Callable[..., Site]) -> None:
    here = site(entry("ann"), script=_waits)
    headers = [*DEFAULT_HEADERS, (b"authorization", bearer("ann")["authorization"].encode())]
    running = RawRequest(here.app, "/v1/completions", {**TEXT, "stream": True}, headers=headers)
    async with running, here.api("ann") as ann:
        await running.until(lambda: running.body.count(b"data:") == 2)
        running.disconnect()
        await running.ended()
        (bucket,) = (await ann.get("/v1/usage")).json()["data"]
    assert bucket["requests"] == {"aborted": 1}
    assert bucket["output_tokens"] == here.app.state.context.metrics.value("generation_tokens_total") == 2
    assert bucket["prompt_tokens"] == here.app.state.context.metrics.value("prompt_tokens_total") > 0


async def test_without_keys_usage_is_for_the_servers_own_machine() -> None:
    app = make_app(FakeClient(says("x")))
    async with http(app) as api:
        await api.post("/v1/completions", json=TEXT)
        (bucket,) = (await api.get("/v1/usage")).json()["data"]
    assert (bucket["key"], bucket["requests"]) == (None, {"completed": 1})
    away = RawRequest(app, "/v1/usage", {}, method="GET", client=("203.0.113.9", 1))
    async with away:
        await away.ended()
    assert away.status == 403


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ({"since": "yesterday"}, "since"),
        ({"since": "2027-01-31T00:00:00"}, "since"),
        ({"since": "2020-01-02T00:00:00Z", "until": "2020-01-01T00:00:00Z"}, "until"),
        ({"bucket": "week"}, "bucket"),
    ],
)
async def test_a_wrong_time_or_bucket_is_refused(query: dict[str, str], param: str) -> None:
    async with http(make_app(FakeClient(says("x")))) as api:
        refused = await api.get("/v1/usage", params=query)
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == param


async def test_usage_of_a_time_is_that_of_its_hours() -> None:
    async with http(make_app(FakeClient(says("x")))) as api:
        await api.post("/v1/completions", json=TEXT)
        past = await api.get("/v1/usage", params={"since": 0, "until": "2020-01-01T00:00:00+01:00", "page": 1})
        present = await api.get("/v1/usage", params={"since": "2020-01-01T00:00:00Z", "bucket": "hour"})
    assert past.json()["data"] == []
    assert past.headers["x-ignored-parameters"] == "page"
    (bucket,) = present.json()["data"]
    assert bucket["end_time"] - bucket["start_time"] == 3600


async def test_a_report_of_more_buckets_than_may_be_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usage, "_MAX_BUCKETS", 0)
    async with http(make_app(FakeClient(says("x")))) as api:
        assert (await api.get("/v1/usage")).status_code == 200
        await api.post("/v1/completions", json=TEXT)
        refused = await api.get("/v1/usage")
    assert refused.status_code == 400
    assert "more than 0 buckets" in refused.json()["error"]["message"]


def _sample(app: FastAPI, name: str, **labels: str) -> float:
    value = app.state.context.metrics._families.registry.get_sample_value(name, labels)
    assert value is not None, f"no {name} with {labels}"
    return float(value)
