"""RequestTable: which open requests it shows."""

import time
from dataclasses import dataclass

import pytest

from engine.client.interface import EngineEnd, RestartReason
from engine.protocol import StepStats
from engine.protocol.sequence_events import Admitted, Computed, Paused, Preempted, Resumed
from server.live.request_table import MAX_OPEN_SHOWN, RequestTable
from server.live.requests import GenerationProgress, Pause
from server.metrics.request_record import RequestRecord
from tests.helpers.fake_client import FakeClient, says

pytestmark = pytest.mark.fast


@dataclass
class _Generation:
    record: RequestRecord
    queue_s: float | None

    def progress(self) -> GenerationProgress:
        return GenerationProgress(9, 0, 0, self.queue_s, None)


def _generation(name: str, *, is_batch_line: bool, queue_s: float | None) -> _Generation:
    record = RequestRecord(name, "POST", lambda _: None)
    record.is_batch_line = is_batch_line
    return _Generation(record, queue_s)


def test_a_line_that_was_started_is_shown_with_its_pauses_before_its_first_output() -> None:
    table = RequestTable(FakeClient(says("x")))
    line = _generation("line", is_batch_line=True, queue_s=None)
    line.record.sequence_ids.append("a")
    table.begin(line)
    assert table.open() == []
    began_s = line.record.arrival_s = time.monotonic() - 100
    for event in (
        Admitted("a", began_s + 1, num_cached=0),
        Computed("a", began_s + 2, num_tokens=9, num_left=0),
        Paused("a", began_s + 3),
        Resumed("a", began_s + 4),
        Paused("a", began_s + 80),
        Resumed("a", began_s + 90),
    ):
        table.on_step(StepStats(events=[event], step_s=0.1))
    (shown,) = table.open()
    assert (shown.state, shown.queue_s, shown.first_token_s) == ("running", pytest.approx(1), pytest.approx(2))
    assert shown.pauses == [Pause(80.0, 90.0)]  # the first one is longer ago than the dashboard draws
    table.on_step(StepStats(events=[Paused("a", began_s + 95)], step_s=0.1))
    (shown,) = table.open()
    assert (shown.state, shown.pauses[-1]) == ("paused", Pause(95.0, None))
    table.engine_ended(EngineEnd(RestartReason.CRASH, "it ended"))
    assert table.open() == []  # it waits again, as lines do that are not listed
    table.on_step(StepStats(events=[Admitted("a", began_s + 99, num_cached=0)], step_s=0.1))
    assert [each.state for each in table.open()] == ["running"]


def test_a_request_of_a_client_waits_again_after_a_preemption() -> None:
    table = RequestTable(FakeClient(says("x")))
    request = _generation("client", is_batch_line=False, queue_s=0.5)
    request.record.sequence_ids.append("a")
    table.begin(request)
    for event in (
        Admitted("a", request.record.arrival_s + 1, num_cached=0),
        Preempted("a", request.record.arrival_s + 2, "memory", num_lost=1),
    ):
        table.on_step(StepStats(events=[event], step_s=0.1))
    (shown,) = table.open()
    assert (shown.state, shown.again_s) == ("waiting", 2.0)


def test_clients_requests_are_shown_before_lines_of_batches() -> None:
    table = RequestTable(FakeClient(says("x")))
    for number in range(2 * MAX_OPEN_SHOWN):
        table.begin(_generation(f"line-{number}", is_batch_line=True, queue_s=None if number % 2 else 0.1))
    for number in range(2):
        table.begin(_generation(f"client-{number}", is_batch_line=False, queue_s=None))
    shown = [each.id for each in table.open()]
    assert shown[:4] == ["client-0", "client-1", "line-0", "line-2"]
    assert len(shown) == MAX_OPEN_SHOWN
    assert table.num_open_lines == 2 * MAX_OPEN_SHOWN
