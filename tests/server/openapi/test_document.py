"""The API's description: every route with its body, answers and example, and examples that are answered."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from engine.protocol import AdapterInfo, PoolingTask
from server.app import ROUTERS
from server.config.lora import LoraConfig
from server.errors import ERRORS
from server.openapi.document import body_models, openapi_document, operations
from server.pulling.pulls import Pulls
from server.routes.docs import OPERATIONS
from tests.helpers.fake_client import MODEL, FakeClient, http, make_app, pooling_client, says_or_scores
from tests.helpers.openapi import POOLING, fim_info
from tests.helpers.scripted_pulls import PULLED, ScriptedFetch

pytestmark = pytest.mark.fast

ROUTES = {f"{method} {path}": route for method, path, route in operations(r for each in ROUTERS for r in each.routes)}
BODILESS = {
    "POST /v1/responses/{response_id}/cancel",
    "POST /v1/batches/{batch_id}/cancel",
    "POST /v1/uploads/{upload_id}/cancel",
    "POST /v1/fine_tuning/jobs/{job_id}/cancel",
    "POST /v1/fine_tuning/jobs/{job_id}/pause",
    "POST /v1/fine_tuning/jobs/{job_id}/resume",
    "POST /drain",
    "POST /v1/models/{name}/load",
    "POST /v1/models/{name}/unload",
}
EXAMPLES = {name: operation.example for name, operation in OPERATIONS.items() if operation.example is not None}


def _document() -> dict[str, Any]:
    return openapi_document([route for router in ROUTERS for route in router.routes], OPERATIONS)


def test_every_route_is_described_and_nothing_else() -> None:
    assert set(OPERATIONS) == set(ROUTES), "describe the route in server/openapi/operations.py"


@pytest.mark.parametrize("name", ROUTES)
def test_a_route_has_answers_and_a_body_its_example(name: str) -> None:
    operation = OPERATIONS[name]
    has_json = bool(body_models(ROUTES[name]) or operation.bodies)
    has_body = has_json or operation.form is not None
    assert operation.answers
    assert has_json == (operation.example is not None)
    assert has_body == (name.startswith(("POST ", "PUT ")) and name not in BODILESS)


def test_every_route_stands_in_a_group() -> None:
    operations = [operation for path in _document()["paths"].values() for operation in path.values()]
    assert operations
    assert all(len(operation["tags"]) == 1 for operation in operations)


def test_references_lead_somewhere_and_every_schema_is_used() -> None:
    document = _document()
    references = {value for key, value in _pairs(document) if key == "$ref"}
    kinds = ("headers", "schemas")
    assert references == {f"#/components/{kind}/{name}" for kind in kinds for name in document["components"][kind]}


def _pairs(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield key, item
            yield from _pairs(item)
    elif isinstance(value, list):
        for item in value:
            yield from _pairs(item)


def test_only_system_one_answers_422_and_all_have_the_errors_of_any() -> None:
    for path, methods in _document()["paths"].items():
        for method, operation in methods.items():
            statuses = set(operation["responses"])
            refused, other = ("422", "400") if path == "/v1/systemone" else ("400", "422")
            assert other not in statuses
            assert {"200", refused, "401", "431", "500"} <= statuses, f"{method} {path}"
            assert "requestBody" not in operation or {"408", "413"} <= statuses


def test_every_error_is_described_somewhere() -> None:
    document = _document()
    texts = " ".join(
        json.dumps(operation["responses"]) for path in document["paths"].values() for operation in path.values()
    )
    for error, kind in ERRORS.items():
        assert error is Exception or kind.code is None or kind.code == "not_served" or f"`{kind.code}`" in texts


def test_a_route_is_said_to_have_its_own_errors_alone() -> None:
    paths = _document()["paths"]
    chat = paths["/v1/chat/completions"]["post"]["responses"]
    conversation = paths["/v1/conversations/{conversation_id}"]["get"]["responses"]
    assert "`model_not_found`" in chat["404"]["description"]
    assert "stored object" not in chat["404"]["description"]
    assert "storage" not in chat["500"]["description"]
    assert conversation["404"]["description"] == "The stored object does not exist, or belongs to another key."
    assert "`storage_failed`" in conversation["500"]["description"]


@pytest.mark.parametrize("name", EXAMPLES)
async def test_an_example_is_answered(name: str, tmp_path: Path) -> None:
    body = json.loads(json.dumps(EXAMPLES[name]).replace('"MODEL"', json.dumps(MODEL)))
    method, path = name.split()
    if name in POOLING:
        client = pooling_client(tasks=[*PoolingTask])
    else:
        client = FakeClient(says_or_scores("Because."), fim_info(max_model_len=600, kv_folder=str(tmp_path / "kv")))
    (tmp_path / "FOLDER").mkdir()
    client.adapters["FOLDER"] = AdapterInfo(digest=b"x", rank=8, num_bytes=1)
    lora = LoraConfig(adapter_dir=str(tmp_path))
    app = make_app(client, enable_lora=True, lora=lora, data_dir=str(tmp_path), decision_min_mass=0.0)
    fetch = ScriptedFetch()
    fetch.say("owner/repo", PULLED)
    app.state.context.pulls = Pulls(["*"], app.state.context.metrics, fetch)
    async with http(app) as api:
        await api.post("/v1/load_lora_adapter", json={"lora_name": "LOADED", "lora_path": "FOLDER"})
        await api.post("/v1/cache/pin", json={**EXAMPLES["POST /v1/cache/pin"], "name": "PINNED"})
        conversation = (await api.post("/v1/conversations", json={})).json()
        path = path.replace("{conversation_id}", conversation["id"])
        for field, purpose in (("input_file_id", "batch"), ("training_file", "fine-tune")):
            if field in body:
                file = await api.post("/v1/files", data={"purpose": purpose}, files={"file": ("a", b"{}")})
                body[field] = file.json()["id"]
        if "part_ids" in body:
            upload = (await api.post("/v1/uploads", json=EXAMPLES["POST /v1/uploads"])).json()
            data = {"data": ("part", b"x" * upload["bytes"])}
            body["part_ids"] = [(await api.post(f"/v1/uploads/{upload['id']}/parts", files=data)).json()["id"]]
            path = path.replace("{upload_id}", upload["id"])
        response = await api.request(method, path, json=body)
    assert response.status_code == 200, response.text
