"""Named keys over HTTP: who is let in, and what belongs to whom."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.helpers.asgi import DEFAULT_HEADERS, RawRequest
from tests.helpers.fake_client import FakeClient, http, make_app, says
from tests.helpers.key_site import CHAT, TEXT, Site, sample, waits
from tests.helpers.keys import bearer, entry, write_keys

pytestmark = pytest.mark.fast


async def test_only_keys_of_the_file_are_let_in(site: Callable[..., Site]) -> None:
    here = site(entry("ann"))
    async with here.api("ann") as ann, here.api("eve") as eve, http(here.app) as bare:
        statuses = [(await each.post("/v1/completions", json=TEXT)).status_code for each in (ann, eve, bare)]
        assert statuses == [200, 401, 401]
        assert (await bare.get("/live")).status_code == 200


async def test_a_removed_key_ends_and_what_it_runs_goes_on(site: Callable[..., Site]) -> None:
    here = site(entry("ann"), entry("ben"), script=waits)
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
    assert sample(here.app, "headrace_key_refusals_total", key="ann", limit="expired") == 1


# --- rates ------------------------------------------------------------------------------------------------------------


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
