"""A server that is one of several refuses what needs one server, by name, and answers everything else."""

from typing import Any

import pytest

from server.app import ROUTERS
from server.http.middleware.one_of_several import _CHANGES, _COMPUTED, _STATE
from tests.helpers.fake_client import FakeClient, http, make_app, says

pytestmark = pytest.mark.fast

CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}]}


@pytest.mark.parametrize(
    ("method", "path", "what"),
    [
        ("POST", "/v1/files", "files need"),
        ("GET", "/v1/batches/batch_1", "batches need"),
        ("GET", "/v1/responses/resp_1", "stored responses need"),
        ("POST", "/v1/fine_tuning/jobs", "fine-tuning jobs need"),
        ("POST", "/v1/load_lora_adapter", "loading an adapter changes"),
        ("DELETE", "/v1/models/a", "loading or unloading a model changes"),
        ("POST", "/drain", "a drain stops"),
    ],
)
async def test_paths_that_need_one_server_are_refused_by_name(method: str, path: str, what: str) -> None:
    async with http(make_app(FakeClient(says("x")), is_one_of_several=True)) as api:
        response = await api.request(method, path)
    assert response.status_code == 404
    assert response.json()["error"]["code"] == "not_served"
    assert what in response.json()["error"]["message"]


@pytest.mark.parametrize("field", [{"store": True}, {"background": True}, {"previous_response_id": "resp_1"}])
async def test_responses_refuse_what_another_server_would_not_find(field: dict[str, Any]) -> None:
    async with http(make_app(FakeClient(says("x")), is_one_of_several=True)) as api:
        response = await api.post("/v1/responses", json={"input": "hi", **field})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == next(iter(field))


async def test_a_response_without_store_is_answered_and_says_that_it_is_not_stored() -> None:
    async with http(make_app(FakeClient(says("x")), is_one_of_several=True)) as api:
        response = (await api.post("/v1/responses", json={"input": "hi"})).json()
        counted = await api.post("/v1/responses/input_tokens", json={"input": "hi"})
    assert response["store"] is False
    assert counted.status_code == 200


async def test_graders_are_answered_since_they_store_nothing() -> None:
    grader = {
        "type": "string_check",
        "name": "g",
        "input": "{{sample.output_text}}",
        "reference": "a",
        "operation": "eq",
    }
    async with http(make_app(FakeClient(says("x")), is_one_of_several=True)) as api:
        path = "/v1/fine_tuning/alpha/graders"
        valid = await api.post(f"{path}/validate", json={"grader": grader})
        run = await api.post(f"{path}/run", json={"grader": grader, "model_sample": "a", "item": {}})
    assert (valid.status_code, run.status_code) == (200, 200)
    assert run.json()["reward"] == 1.0


async def test_resumable_streams_are_refused_and_others_answered() -> None:
    async with http(make_app(FakeClient(says("x")), is_one_of_several=True)) as api:
        refused = await api.post("/v1/chat/completions", json={**CHAT, "stream": True, "resumable": True})
        answered = await api.post("/v1/chat/completions", json={**CHAT, "stream": True})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "resumable")
    assert answered.status_code == 200


async def test_reading_is_allowed_where_only_changes_need_one_server() -> None:
    async with http(make_app(FakeClient(says("x")), is_one_of_several=True)) as api:
        assert (await api.get("/v1/models")).status_code == 200
        assert (await api.get("/v1/cache")).status_code == 200


async def test_one_server_alone_refuses_nothing_of_this() -> None:
    async with http(make_app(FakeClient(says("x")))) as api:
        assert (await api.get("/v1/files")).status_code == 200


def test_the_refused_paths_exist() -> None:
    paths = {getattr(route, "path", "") for router in ROUTERS for route in router.routes}
    for begin in [*_STATE, *_COMPUTED, *_CHANGES]:
        assert any(path.startswith(begin) for path in paths), begin
