"""Lines of a batch's input, and those of its output."""

import json
from typing import Any

import pytest

from server.batches.answers import answer_line, error_line
from server.batches.lines import FaultyLine, Line, read_line
from server.jobs.answers import AnswerUsage, BodyAnswer

pytestmark = pytest.mark.fast

CHAT = "/v1/chat/completions"
GOOD = {"custom_id": "a", "method": "POST", "url": CHAT, "body": {"model": "m", "messages": []}}


def _fault(data: bytes) -> tuple[str, int | None, str | None]:
    with pytest.raises(FaultyLine) as caught:
        read_line(data, 7, [CHAT])
    return caught.value.fault.code, caught.value.fault.line, caught.value.fault.param


def test_a_line_is_read_with_its_number() -> None:
    assert read_line(json.dumps(GOOD).encode(), 7, [CHAT]) == Line(7, "a", CHAT, {"model": "m", "messages": []})


@pytest.mark.parametrize(
    ("change", "code", "param"),
    [
        ({"custom_id": None}, "invalid_type", "custom_id"),
        ({"custom_id": ""}, "invalid_custom_id", "custom_id"),
        ({"custom_id": "x" * 513}, "invalid_custom_id", "custom_id"),
        ({"method": "GET"}, "invalid_method", "method"),
        ({"url": "/v1/completions"}, "url_mismatch", "url"),
        ({"body": []}, "invalid_type", "body"),
        ({"body": {"stream": True}}, "invalid_value", "body.stream"),
    ],
)
def test_a_fault_has_its_code_line_and_param(change: dict[str, Any], code: str, param: str) -> None:
    assert _fault(json.dumps({**GOOD, **change}).encode()) == (code, 7, param)


@pytest.mark.parametrize("name", ["custom_id", "method", "url", "body"])
def test_each_member_is_required(name: str) -> None:
    line = {key: value for key, value in GOOD.items() if key != name}
    assert _fault(json.dumps(line).encode()) == ("missing_required_parameter", 7, name)


@pytest.mark.parametrize("data", [b"{", b"[]", b'{"a": NaN}', b"\xff", b"null", b"[" * 100])
def test_what_is_no_object_is_told_as_no_json(data: bytes) -> None:
    assert _fault(data) == ("invalid_json_line", 7, None)


def test_an_answers_line_is_openais() -> None:
    line = json.loads(answer_line("a", BodyAnswer("req_1", 200, b'{"id": "x"}')))
    assert line.pop("id").startswith("batch_req_")
    response = {"status_code": 200, "request_id": "req_1", "body": {"id": "x"}}
    assert line == {"custom_id": "a", "response": response, "error": None}


def test_an_answers_line_has_the_headers_that_depend_on_the_request() -> None:
    answer = BodyAnswer("req_1", 200, b"{}", {"x-ignored-parameters": "user"})
    assert json.loads(answer_line("a", answer))["response"]["headers"] == {"x-ignored-parameters": "user"}


def test_a_line_without_an_answer_says_why() -> None:
    line = json.loads(error_line("a", "batch_expired", "too late"))
    assert line.pop("id").startswith("batch_req_")
    assert line == {"custom_id": "a", "response": None, "error": {"code": "batch_expired", "message": "too late"}}


def test_a_timeout_is_no_answer() -> None:
    line = json.loads(answer_line("a", BodyAnswer("req_1", 504, b'{"error": {}}')))
    assert (line["response"], line["error"]["code"]) == (None, "request_timeout")


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        (
            {
                "prompt_tokens": 5,
                "completion_tokens": 3,
                "total_tokens": 8,
                "prompt_tokens_details": {"cached_tokens": 2},
                "completion_tokens_details": {"reasoning_tokens": 1, "drafted_tokens": 4},
            },
            AnswerUsage(5, 2, 3, 1),
        ),
        (
            {
                "input_tokens": 5,
                "output_tokens": 3,
                "input_tokens_details": {"cached_tokens": 2},
                "output_tokens_details": {"reasoning_tokens": 1},
            },
            AnswerUsage(5, 2, 3, 1),
        ),
        ({"prompt_tokens": 5, "total_tokens": 5}, AnswerUsage(5, 0, 0, 0)),
        (None, AnswerUsage()),
    ],
)
def test_usage_is_read_in_each_protocols_words(usage: dict[str, Any] | None, expected: AnswerUsage) -> None:
    assert BodyAnswer("r", 200, json.dumps({"usage": usage}).encode()).usage == expected


def test_an_error_used_nothing() -> None:
    assert BodyAnswer("r", 400, b'{"error": {}}').usage == AnswerUsage()
