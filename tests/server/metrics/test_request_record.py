"""The outcome of a request, from the facts in its record."""

import pytest

from engine.protocol import FinishReason
from server.metrics.request_record import CLIENT_GONE, RequestOutcome, RequestRecord

Outcome = RequestOutcome

pytestmark = pytest.mark.fast


def _record(status: int, *reasons: FinishReason, error: tuple[int, str] | None = None) -> RequestRecord:
    record = RequestRecord("req_1", "POST", lambda _: None)
    record.status = status
    record.has_started = bool(reasons)
    record.note_ends(reasons)
    if error is not None:
        record.note_error(*error)
    return record


@pytest.mark.parametrize(
    ("record", "outcome"),
    [
        (_record(200), Outcome.COMPLETED),
        (_record(200, FinishReason.STOP, FinishReason.LENGTH), Outcome.COMPLETED),
        (_record(200, FinishReason.TIMEOUT), Outcome.TIMEOUT),
        (_record(504, FinishReason.TIMEOUT, error=(504, "timeout")), Outcome.TIMEOUT),
        (_record(400, error=(400, "invalid_request_error")), Outcome.REFUSED),
        (_record(429, error=(429, "rate_limit_exceeded")), Outcome.REFUSED),
        (_record(503, error=(503, "engine_unavailable")), Outcome.REFUSED),
        (_record(503, FinishReason.ERROR, error=(503, "engine_died")), Outcome.FAILED),
        (
            _record(200, FinishReason.ERROR, error=(500, "generation_failed")),
            Outcome.FAILED,
        ),  # a stream that broke off
        (_record(500, error=(500, "server_error")), Outcome.FAILED),
        (_record(200, FinishReason.ABORT, error=(409, "stream_deleted")), Outcome.ABORTED),
        (_record(CLIENT_GONE), Outcome.ABORTED),
        (_record(CLIENT_GONE, FinishReason.ABORT), Outcome.ABORTED),
        (
            _record(CLIENT_GONE, FinishReason.STOP),
            Outcome.COMPLETED,
        ),  # it went on without its client, to its end
        (_record(200, FinishReason.ABORT), Outcome.ABORTED),  # a background response that was canceled
    ],
)
def test_the_outcome_follows_from_status_error_and_ends(record: RequestRecord, outcome: Outcome) -> None:
    assert record.outcome is outcome


def test_it_is_over_once_when_the_last_holder_lets_go() -> None:
    over: list[RequestRecord] = []
    record = RequestRecord("req_1", "POST", over.append)
    record.hold()  # a generation
    record.release()  # the exchange
    assert over == []
    record.release()
    assert over == [record]
