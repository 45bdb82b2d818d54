"""Files: the files of one server. A file exists from the moment its row is stored, after its contents are synced."""

import asyncio
import contextlib
import errno
import logging
import secrets
from collections.abc import AsyncIterator, Callable, Collection
from sqlite3 import Connection
from typing import TypeVar

from engine.errors import InvalidRequest
from engine.wording import counted
from server.config.storage import StorageConfig
from server.errors import FileTooLarge, StorageFailed, StorageFull
from server.files import table
from server.files.disk import Disk
from server.files.table import File, FilePage
from server.store.database import Database
from server.store.steady_clock import SteadyClock

logger = logging.getLogger(__name__)
T = TypeVar("T")

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_BUFFER_BYTES = 1 << 20  # of an upload, between two writes

# Returns why a file must not be deleted, since it is in use; None if it may be.
InUse = Callable[[Connection, str], str | None]


def new_file_id() -> str:
    return f"file-{secrets.token_hex(24)}"


class Files:
    """The stored files of a server. All methods raise StorageFailed, and StorageFull if the disk or a limit is full."""

    def __init__(
        self, database: Database, disk: Disk, config: StorageConfig, *, clock: Callable[[], float] | None = None
    ) -> None:
        """clock: returns seconds since 1970; a SteadyClock by default."""
        self.database = database
        self.disk = disk
        self.config = config
        self.clock = clock or SteadyClock()
        self.users: list[InUse] = []
        self.writing: set[str] = set()  # names of files on the disk that have no row yet

    # --- uploads ------------------------------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def upload(self, *, num_replaced_bytes: int = 0) -> AsyncIterator["Upload"]:
        """Yield an Upload to write a new file. Unless it is finished, the file is removed at the end of the context.

        num_replaced_bytes: size of the stored parts that the finished file replaces, so that they are not counted
        twice.
        """
        upload = Upload(self, num_replaced_bytes)
        self.writing.add(upload.id)
        try:
            await self.on_disk(self.disk.create, upload.id)
            yield upload
        finally:
            if not upload.is_finished:
                with contextlib.suppress(StorageFailed):
                    await asyncio.shield(self.on_disk(self.disk.remove, upload.id))
            self.writing.discard(upload.id)

    async def on_disk(self, work: Callable[..., T], *arguments: object) -> T:
        """Run the blocking `work` in another thread, and return its result. Raises StorageFailed for an OSError."""
        try:
            return await asyncio.to_thread(work, *arguments)
        except OSError as error:
            raise disk_error(error) from error

    def check_room(self, connection: Connection, num_new_bytes: int) -> None:
        """Raise StorageFull if another file of this size would exceed the limits of files or bytes."""
        num_files, num_bytes = table.totals(connection)
        if num_files >= self.config.max_files:
            raise StorageFull(
                f"{counted(num_files, 'file is', 'files are')} stored, and that is the limit (--max-files); delete "
                "some, and upload again"
            )
        limit = self.config.files_max_bytes
        num_bytes += table.part_bytes(connection)
        if num_bytes + num_new_bytes > limit:
            raise StorageFull(
                f"the stored files have {num_bytes} bytes, and this one would take them above the limit of {limit} "
                "(--files-max-bytes); delete some, and upload again"
            )

    # --- files --------------------------------------------------------------------------------------------------------

    async def find(self, file_id: str, owner: str) -> File | None:
        return await self.database.run(lambda connection: table.find(connection, file_id, owner, self.clock()))

    async def page(
        self, owner: str, *, purpose: str | None, after: str | None, limit: int, is_ascending: bool
    ) -> FilePage | None:
        """Return up to `limit` of the owner's files after the file with the id `after`; None if there is no such
        file."""

        def work(connection: Connection) -> FilePage | None:
            return table.files_page(
                connection,
                owner,
                self.clock(),
                purpose=purpose,
                after=after,
                limit=limit,
                is_ascending=is_ascending,
            )

        return await self.database.run(work)

    async def delete(self, file_id: str, owner: str) -> bool:
        """Delete a file; return whether it existed. Raises InvalidRequest while it is in use."""

        def work(connection: Connection) -> bool:
            if table.find(connection, file_id, owner, self.clock()) is None:
                return False
            if (reason := self._use(connection, file_id)) is not None:
                raise InvalidRequest(f"the file {file_id!r} cannot be deleted: {reason}", param="file_id")
            table.delete(connection, file_id)
            return True

        was_there = await self.database.run(work, is_durable=True)
        if was_there:
            await self.remove([file_id])
        return was_there

    def _use(self, connection: Connection, file_id: str) -> str | None:
        return next((reason for user in self.users if (reason := user(connection, file_id)) is not None), None)

    async def expire(self) -> int:
        """Delete the expired files that are not in use; return their number."""

        def work(connection: Connection) -> list[str]:
            due = [each for each in table.expired(connection, self.clock()) if self._use(connection, each) is None]
            for file_id in due:
                table.delete(connection, file_id)
            return due

        due = await self.database.run(work, is_durable=True)
        await self.remove(due)
        return len(due)

    async def sweep(self, known: Collection[str] = ()) -> int:
        """Remove files that a server left on the disk when it ended while writing or deleting them. Return their
        number.

        known: names to keep although they have no row in the table of files.
        """
        names = await self.on_disk(self.disk.names)
        strays = await self.database.run(lambda connection: table.unknown(connection, names))
        return await self.remove([name for name in strays if name not in known and name not in self.writing])

    async def remove(self, names: list[str]) -> int:
        """Remove files from the disk by name; return their number. Failures are logged, and retried at the next
        start."""
        for name in names:
            try:
                await self.on_disk(self.disk.remove, name)
            except StorageFailed as error:
                logger.warning("the file %s could not be removed from the disk: %s", name, error)
        return len(names)

    async def totals(self) -> tuple[int, int]:
        """Return the number of files and their total size in bytes."""
        return await self.database.run(table.totals)


class Upload:
    """A file that is being written."""

    def __init__(self, files: Files, num_replaced_bytes: int) -> None:
        self.id = new_file_id()
        self.num_bytes = 0
        self.is_finished = False
        self._files = files
        self._num_replaced_bytes = num_replaced_bytes
        self._buffer = bytearray()

    async def write(self, data: bytes) -> None:
        """Append data to the file. Raises FileTooLarge above --max-file-bytes."""
        limit = self._files.config.max_file_bytes
        if self.num_bytes + len(data) > limit:
            raise FileTooLarge(f"the file has more than {limit} bytes (--max-file-bytes)")
        self._buffer += data
        self.num_bytes += len(data)
        if len(self._buffer) >= _BUFFER_BYTES:
            await self._flush()

    async def _flush(self) -> None:
        data = bytes(self._buffer)
        self._buffer.clear()
        num_new_bytes = self.num_bytes - self._num_replaced_bytes
        await self._files.database.run(lambda connection: self._files.check_room(connection, num_new_bytes))
        await self._files.on_disk(self._files.disk.write, self.id, self.num_bytes - len(data), data)

    async def finish(
        self,
        *,
        owner: str,
        purpose: str,
        filename: str,
        expires_after_s: float | None,
        within: Callable[[Connection], None] = lambda _: None,
    ) -> File:
        """Store the file's row, and return the File. If canceled, the file may or may not have been stored.

        within: runs in the same transaction, and raises if the file must not be stored.
        """
        now_s = int(self._files.clock())
        expires_s = None if expires_after_s is None else int(now_s + expires_after_s)
        file = File(self.id, owner, purpose, filename, self.num_bytes, now_s, expires_s)

        def work(connection: Connection) -> None:
            within(connection)
            self._files.check_room(connection, file.bytes)
            table.insert(connection, file)

        await self.keep(work)
        return file

    async def keep(self, work: Callable[[Connection], None]) -> None:
        """Sync the contents, then store their row by `work` in a transaction. On return, both survive a power cut."""
        await self._flush()
        disk = self._files.disk
        await self._files.on_disk(disk.sync, self.id)
        await self._files.on_disk(disk.sync_names)
        storing = asyncio.ensure_future(self._files.database.run(work, is_durable=True))
        self.is_finished = True  # assumed until it is known: a row without its bytes is worse than bytes without a row
        try:
            await asyncio.shield(storing)
        except asyncio.CancelledError:
            await asyncio.wait([storing])
            self.is_finished = storing.cancelled() or storing.exception() is None
            raise
        except Exception:
            self.is_finished = False
            raise


def disk_error(error: OSError) -> StorageFailed:
    """Return the error to report to clients for an OSError of the disk."""
    if error.errno in _FULL:
        return StorageFull(
            "the server's disk is full, so nothing was stored; delete files, or ask the server's operator"
        )
    return StorageFailed(f"the server's files could not be read or written: {error.strerror}")
