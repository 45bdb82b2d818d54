"""The usage of a key: /v1/usage, and the log of usage."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from server.routes import usage
from tests.helpers.asgi import DEFAULT_HEADERS, RawRequest
from tests.helpers.fake_client import FakeClient, http, make_app, says
from tests.helpers.key_site import CHAT, TEXT, Site, sample, waits
from tests.helpers.keys import bearer, entry

pytestmark = pytest.mark.fast


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
    assert sample(here.app, "headrace_key_output_tokens_total", key="ann") == bucket["output_tokens"]
    assert sample(here.app, "headrace_key_prompt_tokens_total", key="ann") == bucket["prompt_tokens"]
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
    here = site(entry("ann"), script=waits)
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
