"""Requests that schemathesis draws are answered as the API's description says, and never by an error of ours.

Drawing them takes a quarter of a minute, more than any fast test, so these are not among them.
"""

from typing import Any

import pytest

pytest.importorskip("schemathesis")

from tests.helpers.api_cases import ApiCases, fake_app, pooling_app
from tests.helpers.openapi import POOLING

# Of each operation; `python -m tests.helpers.api_cases 10000` draws more.
_NUM_CASES = 6
_NUM_CASES_WITHOUT_BODY = 3

_SAME = {"POST /rerank", "POST /v2/rerank", "POST /score"}  # as others, but for their paths


@pytest.fixture(scope="module")
def cases() -> ApiCases:
    return ApiCases(fake_app())


def test_answers_are_as_described(cases: ApiCases) -> None:
    operations = [operation for label, operation in cases.operations().items() if label not in POOLING]
    faults = [
        fault
        for operation in operations
        for fault in cases.run(operation, _NUM_CASES if operation.body else _NUM_CASES_WITHOUT_BODY)
    ]
    assert not faults, "\n".join(faults)
    assert cases.statuses.total() > 250
    assert {
        "POST /v1/chat/completions",
        "POST /v1/completions",
        "POST /v1/messages",
        "POST /v1/responses",
        "POST /infill",
        "POST /api/chat",
        "POST /api/generate",
    } <= cases.num_streams.keys()
    answered = {label for (label, status) in cases.statuses if status == 200}
    assert {"POST /v1/responses", "POST /tokenize", "GET /v1/conversations/{conversation_id}"} <= answered


def test_answers_of_pooling_models_are_as_described() -> None:
    cases = ApiCases(pooling_app())
    operations = cases.operations()
    labels = POOLING - _SAME
    faults = [fault for label in sorted(labels) for fault in cases.run(operations[label], _NUM_CASES)]
    assert not faults, "\n".join(faults)
    assert {label for (label, status) in cases.statuses if status == 200} == labels


@pytest.mark.parametrize(
    ("label", "schema", "field"),
    [
        ("GET /version", "ServerVersion", "version"),
        ("POST /detokenize", "Detokenized", "prompt"),
        ("POST /v1/conversations", "OpenAIErrorFields", "message"),
    ],
)
def test_an_answer_that_is_not_as_described_is_found(label: str, schema: str, field: str) -> None:
    broken = ApiCases(fake_app(), change=lambda document: _ask_for_a_number(document, schema, field))
    assert broken.run(broken.operations()[label], 30)


@pytest.mark.parametrize(
    ("label", "schema"), [("POST /api/chat", "OllamaAnswerMessage"), ("POST /v1/chat/completions", "ChatDelta")]
)
def test_an_event_that_is_not_as_described_is_found(label: str, schema: str) -> None:
    broken = ApiCases(fake_app(), change=lambda document: _ask_for_a_number(document, schema, "content"))
    operation = broken.operations()[label]
    draws = (broken.run(operation, _NUM_CASES, number) for number in range(10))
    assert any("an event is not as described" in fault for faults in draws for fault in faults)


def _ask_for_a_number(document: dict[str, Any], schema: str, field: str) -> None:
    document["components"]["schemas"][schema]["properties"][field] = {"type": "integer"}


def test_an_error_of_ours_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = ApiCases(fake_app())
    monkeypatch.setattr("server.endpoints.tokens.decode", lambda *_, **__: 1 / 0)
    assert any("500" in fault for fault in broken.run(broken.operations()["POST /detokenize"], 30))
