"""A file has its bytes on the disk, whatever was canceled while it was stored."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from sqlite3 import Connection
from typing import TypeVar

import pytest

from server.config.storage import StorageConfig
from server.errors import StorageFailed
from server.files.disk import FolderDisk
from server.files.store import Files
from server.store.database import MIGRATIONS, Database

pytestmark = pytest.mark.fast

T = TypeVar("T")


class _Slow(Database):
    """Durable calls end when they may, though what they did is done, or has failed."""

    def __init__(self, *, fails: bool) -> None:
        super().__init__(":memory:", MIGRATIONS)
        self.is_done = asyncio.Event()
        self.may_end = asyncio.Event()
        self._fails = fails

    async def run(self, work: Callable[[Connection], T], *, is_durable: bool = False) -> T:
        if not is_durable:
            return await super().run(work)
        if not self._fails:
            result = await super().run(work, is_durable=True)
        self.is_done.set()
        await self.may_end.wait()
        if self._fails:
            raise StorageFailed("the disk is full")
        return result


@pytest.mark.parametrize("fails", [False, True])
async def test_an_upload_that_is_canceled_while_it_is_stored_is_a_file_or_none(tmp_path: Path, fails: bool) -> None:
    database = _Slow(fails=fails)
    files = Files(database, FolderDisk(tmp_path / "files"), StorageConfig())

    async def upload() -> None:
        async with files.upload() as upload:
            await upload.write(b"abc")
            await upload.finish(owner="", purpose="batch", filename="a", expires_after_s=None)

    task = asyncio.create_task(upload())
    await database.is_done.wait()
    task.cancel()
    await asyncio.sleep(0)
    database.may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    num_files, _ = await files.totals()
    assert num_files == (0 if fails else 1)
    assert len(files.disk.names()) == num_files
    database.close()
