"""Attributes of a span, as far as they need no library."""

import pytest

from server.metrics.request_record import RequestRecord
from server.tracing.attributes import request_attributes

pytestmark = pytest.mark.fast


def _record(status: int) -> RequestRecord:
    record = RequestRecord("abc", "POST", lambda _: None)
    record.status = status
    return record


def test_a_request_without_a_route_says_none() -> None:
    attributes = request_attributes(_record(404))
    assert attributes == {
        "http.response.status_code": 404,
        "http.request.body.size": 0,
        "http.response.body.size": 0,
        "headrace.request.id": "abc",
        "headrace.outcome": "refused",
    }


def test_a_key_is_told_by_its_name() -> None:
    record = _record(200)
    record.key_name = "poems"
    assert request_attributes(record)["headrace.key"] == "poems"


@pytest.mark.parametrize(
    ("status", "code", "error"),
    [(500, "generation_failed", "generation_failed"), (502, None, "502"), (404, None, None)],
)
def test_an_error_is_told_by_its_code_or_the_status_of_a_fault(
    status: int, code: str | None, error: str | None
) -> None:
    record = _record(status)
    if code is not None:
        record.note_error(status, code)
    assert request_attributes(record).get("error.type") == error
