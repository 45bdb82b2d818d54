"""What counts of a batch's answers is what is in its files, whatever was canceled."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from sqlite3 import Connection
from typing import TypeVar

import pytest

from server.batches.output import Output, Result
from server.batches.record import BATCHES, BatchRecord
from server.config.storage import StorageConfig
from server.files.disk import FolderDisk
from server.files.store import Files
from server.jobs.answers import AnswerUsage
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


def _result(custom_id: str, *, is_completed: bool) -> Result:
    return Result(b'{"custom_id":"%s"}\n' % custom_id.encode(), is_completed, AnswerUsage(input_tokens=1))


async def test_answers_whose_commit_was_canceled_count_once(tmp_path: Path) -> None:
    database = _Canceled(":memory:", MIGRATIONS)
    files = Files(database, FolderDisk(tmp_path / "files"), StorageConfig())
    record = BatchRecord(
        id="b", owner="", endpoint=CHAT, input_file_id="f", completion_window="24h", created_at=0, expires_at=99
    )
    await database.run(lambda connection: BATCHES.insert(connection, record))
    output = Output(files, record)
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
    page = await files.page("", purpose=None, after=None, limit=9, is_ascending=True)
    assert page is not None
    assert [file.bytes for file in page.files] == [2 * len(results[0].data), len(results[1].data)]
    database.close()
