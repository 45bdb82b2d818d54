"""Whether one more user fits: by what is computed, and by what clients see."""

import time
from dataclasses import dataclass

import pytest
from fastapi import FastAPI

from engine.protocol import StepStats
from server.dashboard.fit import GAP_LIMIT_S, fit_of, pooling_fit_of
from server.live.reports import Fit
from server.live.requests import GenerationProgress
from server.metrics.request_record import RequestRecord
from tests.helpers.fake_client import FakeClient, make_app, pooling_client, says

pytestmark = pytest.mark.fast


@dataclass
class _Generation:
    record: RequestRecord
    seen: GenerationProgress

    def progress(self) -> GenerationProgress:
        return self.seen


def _app() -> FastAPI:
    return make_app(FakeClient(says("Because.")))


def _fit(app: FastAPI) -> Fit:
    fit = fit_of(app.state.context.models.default, time.time() * 1000)
    assert fit is not None
    return fit


def _ended(first_token_s: float, seconds: float, output_tokens: int) -> RequestRecord:
    record = RequestRecord("r", "POST", lambda _: None)
    record.has_started, record.status, record.output_tokens = True, 200, output_tokens
    record.first_token_s, record.arrival_s = first_token_s, time.monotonic() - seconds
    return record


def test_no_user_fits_while_answers_come_slower_than_the_limit() -> None:
    app = _app()
    live = app.state.context.live
    for _ in range(2):
        live.on_step(StepStats(decode_tokens=1, running=1, step_s=0.02, blocks_total=64))
    for output_tokens in (100, 11):
        live.requests.on_over(_ended(0.5, 2.5, output_tokens))
    fit = _fit(app)
    assert (fit.reasons, fit.users) == (["seen_gap"], None)
    assert fit.seen_gap_s is not None
    assert fit.seen_gap_s > GAP_LIMIT_S


def test_no_user_fits_while_open_requests_wait_for_their_first_token() -> None:
    app = _app()
    table = app.state.context.live.requests
    first = GenerationProgress(9, 0, 0, queue_s=None, first_token_s=None)
    slow = GenerationProgress(9, 0, 11, queue_s=0.1, first_token_s=1.0)
    line = _Generation(_ended(0.0, 60.0, 0), first)
    line.record.is_batch_line = True
    table.begin(line)
    assert _fit(app).reasons == []
    waiting = _Generation(_ended(0.0, 3.0, 0), first)
    table.begin(waiting)
    assert _fit(app).reasons == ["open_first_token"]
    table.end(waiting)
    table.begin(_Generation(_ended(0.0, 3.0, 0), slow))
    assert _fit(app).reasons == ["open_gap"]


def test_a_first_token_that_came_long_ago_is_no_wait_now() -> None:
    app = _app()
    table = app.state.context.live.requests
    slow = GenerationProgress(9, 0, 5000, queue_s=0.1, first_token_s=2.5)
    table.begin(_Generation(_ended(0.0, 70.0, 0), slow))
    fit = _fit(app)
    assert (fit.reasons, fit.open_first_token_s) == ([], None)
    table.begin(_Generation(_ended(0.0, 30.0, 0), slow))
    fit = _fit(app)
    assert (fit.reasons, fit.open_first_token_s) == (["open_first_token"], 2.5)


def test_what_clients_saw_is_the_same_number_as_in_the_table_of_latencies() -> None:
    """Open requests have a number of their own."""
    app = _app()
    table = app.state.context.live.requests
    for _ in range(9):
        table.on_over(_ended(0.5, 2.5, 101))
    table.begin(_Generation(_ended(0.0, 3.0, 0), GenerationProgress(9, 0, 11, queue_s=0.1, first_token_s=1.0)))
    fit, latencies = _fit(app), table.latencies(time.time() * 1000)
    assert (fit.first_token_s, fit.seen_gap_s) == (latencies.first_token_s[1], latencies.per_token_s[1])
    assert fit.open_gap_s is not None
    assert fit.open_gap_s > GAP_LIMIT_S
    assert fit.reasons == ["open_gap"]


def test_room_for_embeddings_goes_by_the_time_of_whole_requests() -> None:
    app = make_app(pooling_client())
    model = app.state.context.models.default

    def told() -> tuple[bool, bool]:
        """Whether one more user fits, and whether that is known."""
        fit = pooling_fit_of(model, time.time() * 1000)
        assert fit is not None
        return fit.has_room, fit.answer_s is not None

    assert fit_of(model, time.time() * 1000) is None
    assert told() == (True, False)
    record = RequestRecord("r", "POST", lambda _: None)
    record.has_started, record.status, record.arrival_s = True, 200, time.monotonic()
    model.live.requests.on_over(record)
    assert told() == (True, True)
    model.live.requests.begin(_Generation(_ended(0.0, 3.0, 0), GenerationProgress(9, 0, 0, None, None)))
    assert told() == (False, True)
