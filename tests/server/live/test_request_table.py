"""RequestTable: which open requests it shows."""

from dataclasses import dataclass

import pytest

from server.live.request_table import MAX_OPEN_SHOWN, RequestTable
from server.live.requests import GenerationProgress
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
