"""Requests for structured outputs: the grammar that the engine gets, and what is refused or listed."""

import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from engine.protocol import EngineRequest, FinishReason, RequestOutput
from server.text.workers import LONG_SIZE, TextWorkers
from tests.helpers.fake_client import FakeClient, Step, http, make_app, says

pytestmark = pytest.mark.fast

MESSAGES = [{"role": "user", "content": "hi"}]
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": False}


async def _chat(client: FakeClient, **fields: Any) -> httpx.Response:
    async with http(make_app(client)) as api:
        return await api.post("/v1/chat/completions", json={"messages": MESSAGES, **fields})


def _json_schema(schema: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, **fields}}


@pytest.mark.parametrize(
    ("fields", "part"),
    [
        ({"response_format": {"type": "json_object"}}, '"type": "object"'),
        ({"response_format": _json_schema(SCHEMA, strict=True)}, '"additionalProperties": false'),
        ({"structured_outputs": {"json": SCHEMA}}, '"additionalProperties": false'),
        ({"structured_outputs": {"regex": "[0-9]{3}"}}, "/[0-9]{3}/"),
        ({"structured_outputs": {"choice": ["yes", "no"]}}, '"yes"'),
        ({"structured_outputs": {"grammar": 'start: "a"+'}}, 'start: "a"+'),
        ({"guided_json": SCHEMA}, '"additionalProperties": false'),
        ({"guided_regex": "[0-9]{3}"}, "/[0-9]{3}/"),
        ({"guided_choice": ["yes", "no"]}, '"no"'),
        ({"guided_grammar": 'root ::= "a" [0-9]'}, "[0-9]"),
    ],
)
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
async def test_the_engine_gets_one_grammar(path: str, fields: dict[str, Any], part: str) -> None:
    client = FakeClient(says("x"))
    prompt = {"messages": MESSAGES} if "chat" in path else {"prompt": "hi"}
    async with http(make_app(client)) as api:
        response = await api.post(path, json={**prompt, **fields, "n": 2})
    assert response.status_code == 200, response.text
    assert "x-ignored-parameters" not in response.headers
    first, second = (request.grammar for request in client.requests)
    assert first is not None
    assert first == second
    grammars = json.loads(first)["grammars"]
    assert any(part in (grammar.get("lark_grammar") or json.dumps(grammar)) for grammar in grammars)


@pytest.mark.parametrize("fields", [{}, {"response_format": {"type": "text"}}, {"response_format": None}])
async def test_free_text_has_no_grammar(fields: dict[str, Any]) -> None:
    client = FakeClient(says("x"))
    assert (await _chat(client, **fields)).status_code == 200
    assert client.requests[0].grammar is None


async def test_what_is_not_enforced_is_refused_under_strict_and_listed_else() -> None:
    schema = {**SCHEMA, "dependentSchemas": {"a": {"properties": {"b": {"contains": {"const": 1}}}}}}
    response = await _chat(FakeClient(says("x")), response_format=_json_schema(schema, strict=True))
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["code"] == "unsupported_parameter"
    assert error["param"].startswith("response_format.json_schema.schema")
    response = await _chat(FakeClient(says("x")), response_format=_json_schema(schema))
    assert response.status_code == 200
    assert "response_format.json_schema.schema" in response.headers["x-ignored-parameters"]


async def test_two_constraints_are_refused() -> None:
    response = await _chat(FakeClient(says("x")), guided_regex="a", response_format={"type": "json_object"})
    assert response.status_code == 400
    assert "guided_regex" in response.json()["error"]["message"]
    assert "response_format" in response.json()["error"]["message"]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_grammar_that_the_engine_refuses_is_a_400_with_its_field(stream: bool) -> None:
    def refuse(request: EngineRequest) -> list[Step]:
        error = "it was not compiled within 10 s"
        return [RequestOutput(id=request.id, finish_reason=FinishReason.ERROR, error=error, is_refused=True)]

    response = await _chat(FakeClient(refuse), guided_regex="a+", stream=stream)
    assert response.status_code == 400
    error = response.json()["error"]
    assert (error["param"], error["type"]) == ("guided_regex", "invalid_request_error")
    assert error["message"] == "guided_regex cannot be followed: it was not compiled within 10 s"


async def test_a_schema_of_ten_thousand_levels_is_refused() -> None:
    body = '{"a":' * 10_000 + "{}" + "}" * 10_000
    text = f'{{"messages":[{{"role":"user","content":"hi"}}],"guided_json":{body}}}'
    async with http(make_app(FakeClient(says("x")))) as api:
        response = await api.post("/v1/chat/completions", content=text, headers={"content-type": "application/json"})
    assert response.status_code == 400


_LARGE = {
    "type": "object",
    "properties": {f"key_{number}": {} for number in range(1500)},
    "additionalProperties": False,
}


_CHAT = {"messages": MESSAGES}
_TEXT = {"prompt": "hi"}


@pytest.mark.parametrize(
    ("body", "num_long"),
    [
        ({**_CHAT, "guided_json": SCHEMA}, 0),
        ({**_CHAT, "guided_json": _LARGE}, 1),
        ({**_CHAT, "response_format": _json_schema(_LARGE)}, 1),
        ({**_CHAT, "tools": [{"type": "function", "function": {"name": "f", "parameters": _LARGE}}]}, 1),
        ({**_CHAT, "functions": [{"name": "f", "parameters": _LARGE}]}, 1),
        ({**_TEXT, "guided_json": SCHEMA}, 0),
        ({**_TEXT, "guided_json": _LARGE}, 1),
    ],
)
async def test_a_large_schema_waits_among_long_texts(
    body: dict[str, Any], num_long: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even if its body is short: nobody's short chat waits behind it. The prompt with such tools is too long here."""
    sizes: list[int] = []
    run = TextWorkers.run

    async def noted(workers: TextWorkers, work: Callable[[], Any], *, size: int) -> Any:
        sizes.append(size)
        return await run(workers, work, size=size)

    monkeypatch.setattr(TextWorkers, "run", noted)
    path = "/v1/chat/completions" if "messages" in body else "/v1/completions"
    async with http(make_app(FakeClient(says("x")))) as api:
        response = await api.post(path, json=body)
    assert response.status_code == 200 or response.json()["error"]["code"] == "context_length_exceeded"
    assert sum(size > LONG_SIZE for size in sizes) == num_long
