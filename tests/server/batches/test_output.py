"""What counts of a batch's answers is what is in its files, whatever was canceled."""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from sqlite3 import Connection
from typing import TypeVar

import pytest

from engine.protocol import StepStats
from server.batches.output import Output, Result
from server.batches.record import BATCHES, BatchRecord
from server.config.storage import StorageConfig
from server.files.disk import FolderDisk
from server.files.store import Files
from server.jobs.answers import AnswerUsage
from server.live.pace import Pace
from server.schemas.batch_answers import BatchStatus
from server.store.database import MIGRATIONS, Database
from tests.helpers.batches import CHAT

pytestmark = pytest.mark.fast

T = TypeVar("T")


class _Canceled(Database):
    """Its callers are canceled while it commits, where they are to be."""

    is_canceled = False

    async def run(self, work: Callable[[Connection], T], *, is_durable: bool = False) -> T:
        result = await super().run(work, is_durable=is_durable)
        if self.is_canceled:
            raise asyncio.CancelledError
        return result


async def _output(database: Database, folder: Path, clock: Callable[[], float] = time.monotonic) -> Output:
    record = BatchRecord(
        id="b", owner="", endpoint=CHAT, input_file_id="f", completion_window="24h", created_at=0, expires_at=99
    )
    await database.run(lambda connection: BATCHES.insert(connection, record))
    return Output(Files(database, FolderDisk(folder / "files"), StorageConfig()), record, clock)


def _result(custom_id: str, *, is_completed: bool) -> Result:
    return Result(b'{"custom_id":"%s"}\n' % custom_id.encode(), is_completed, AnswerUsage(input_tokens=1))


async def test_the_time_of_lines_is_counted_by_a_clock_that_stands_still_in_pauses(tmp_path: Path) -> None:
    now_s = 100.0
    pace = Pace(lambda: now_s)
    output = await _output(_Canceled(":memory:", MIGRATIONS), tmp_path, lambda: pace.batch_clock_s)
    await output.begin(total=3, model=None)
    for seconds, stats in ((5.0, StepStats(running=1, paused_batch=1)), (70.0, StepStats(running_batch=1))):
        now_s += seconds
        pace.on_step(stats)
    now_s += 2.0
    await output.add([_result("0", is_completed=True)])
    assert output.record.active_s == 7.0
    now_s += 3.0
    await output.add([_result("1", is_completed=True)])
    assert output.record.active_s == 10.0
    pace.on_step(StepStats(waiting=1))
    now_s += 60.0
    await output.add([_result("2", is_completed=True)])  # it had ended before the pause
    assert output.record.active_s == 10.0


async def test_answers_whose_commit_was_canceled_count_once(tmp_path: Path) -> None:
    database = _Canceled(":memory:", MIGRATIONS)
    output = await _output(database, tmp_path)
    await output.begin(total=3, model=None)
    results = [_result("0", is_completed=True), _result("1", is_completed=False)]
    database.is_canceled = True
    with pytest.raises(asyncio.CancelledError):
        await output.add(results)
    database.is_canceled = False
    await output.add([*results, _result("2", is_completed=True)])
    stored = output.record
    assert (stored.completed, stored.failed, stored.usage.input_tokens) == (2, 1, 3)
    await output.finish(BatchStatus.COMPLETED)
    files = Files(database, FolderDisk(tmp_path / "files"), StorageConfig())
    page = await files.page("", purpose=None, after=None, limit=9, is_ascending=True)
    assert page is not None
    assert [file.bytes for file in page.files] == [2 * len(results[0].data), len(results[1].data)]
    database.close()
