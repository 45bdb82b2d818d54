"""Uploads: files that are uploaded in parts, in any order and by several connections."""

import contextlib
import hashlib
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from sqlite3 import Connection

from engine.errors import InvalidRequest
from server.errors import FileTooLarge, NotStored, StorageFailed
from server.files import table
from server.files.store import Files
from server.files.table import File, PartedUpload, UploadPart, UploadStatus

LIFE_S = 3600  # OpenAI's
MAX_PART_BYTES = 64 << 20  # OpenAI's

_MAX_PENDING = 1000  # uploads of one owner
_MAX_PARTS = 10_000  # of one upload
_READ_BYTES = 1 << 20


@dataclass(slots=True)
class PartWriter:
    """The writer of one upload part. part: set when the part is stored."""

    write: Callable[[bytes], Awaitable[None]]
    part: UploadPart | None = field(default=None)


class Uploads:
    """The uploads of one server. All methods raise StorageFailed, and StorageFull if there is no room.

    An acknowledged part or completion survives a power cut: contents are synced before their row is stored. A file and
    the end of its upload are stored in one transaction.
    """

    def __init__(self, files: Files) -> None:
        self._files = files

    async def create(
        self, *, owner: str, purpose: str, filename: str, num_bytes: int, file_expires_after_s: int | None
    ) -> PartedUpload:
        """Create an upload. Raises FileTooLarge, and InvalidRequest if the owner has too many pending uploads."""
        if num_bytes > self._files.config.max_file_bytes:
            raise FileTooLarge(
                f"bytes is {num_bytes}; a file may have {self._files.config.max_file_bytes} bytes (--max-file-bytes)"
            )
        now_s = int(self._files.clock())
        upload = PartedUpload(
            id=f"upload_{secrets.token_hex(24)}",
            owner=owner,
            purpose=purpose,
            filename=filename,
            bytes=num_bytes,
            created_s=now_s,
            expires_s=now_s + LIFE_S,
            file_expires_after_s=file_expires_after_s,
        )

        def work(connection: Connection) -> None:
            if table.num_pending(connection, owner) >= _MAX_PENDING:
                raise InvalidRequest(
                    f"{_MAX_PENDING} uploads are pending, which is the limit; complete or cancel one of them"
                )
            self._files.check_room(connection, num_bytes)
            table.insert_upload(connection, upload)

        await self._files.database.run(work, is_durable=True)
        return upload

    @contextlib.asynccontextmanager
    async def part(self, upload_id: str, owner: str) -> AsyncIterator[PartWriter]:
        """Yield a writer for a new part, which is stored at the end of the context, or removed on an error.

        Raises NotStored if the owner has no such upload, and InvalidRequest if the upload has ended, or if the part is
        empty or exceeds the upload's size; `write` raises FileTooLarge for a part above the limit.
        """
        await self._files.database.run(lambda connection: self._pending(connection, upload_id, owner))
        async with self._files.upload() as written:

            async def write(data: bytes) -> None:
                if written.num_bytes + len(data) > MAX_PART_BYTES:
                    raise FileTooLarge(f"the part has more than {MAX_PART_BYTES} bytes; send it as several")
                await written.write(data)

            writer = PartWriter(write)
            yield writer
            if not written.num_bytes:
                raise InvalidRequest("data is empty; a part has at least one byte", param="data")
            part = UploadPart(f"part_{secrets.token_hex(24)}", upload_id, written.id, written.num_bytes)

            def work(connection: Connection) -> None:
                upload = self._pending(connection, upload_id, owner)
                others = table.parts(connection, upload_id).values()
                total = part.bytes + sum(each.bytes for each in others)
                if total > upload.bytes or len(others) >= _MAX_PARTS:
                    raise InvalidRequest(
                        f"with this part the upload has {total} bytes in {len(others) + 1} parts; it was created for "
                        f"{upload.bytes}, and may have {_MAX_PARTS} parts",
                        param="data",
                    )
                self._files.check_room(connection, part.bytes)
                table.add_part(connection, part)

            await written.keep(work)
            writer.part = part

    async def complete(
        self, upload_id: str, owner: str, part_ids: Sequence[str], md5: str | None
    ) -> tuple[PartedUpload, File]:
        """Join the parts in the order of `part_ids` into a file, and complete the upload. Raises NotStored if the owner
        has no such upload, and InvalidRequest if the upload has ended, or if `part_ids` or `md5` do not match its
        contents."""

        def look(connection: Connection) -> tuple[PartedUpload, dict[str, UploadPart]]:
            return self._pending(connection, upload_id, owner), table.parts(connection, upload_id)

        upload, known = await self._files.database.run(look)
        parts = _chosen(upload, known, part_ids)
        async with self._files.upload(num_replaced_bytes=upload.bytes) as written:
            digest = hashlib.md5(usedforsecurity=False)
            for part in parts:
                for offset in range(0, part.bytes, _READ_BYTES):
                    data = await self._read(upload, part, offset)
                    await self._files.on_disk(digest.update, data)
                    await written.write(data)
            if md5 is not None and digest.hexdigest() != md5.lower():
                raise InvalidRequest(
                    f"md5 is {md5[:64]}; that of the parts in this order is {digest.hexdigest()}", param="md5"
                )
            names: list[str] = []

            def end(connection: Connection) -> None:
                self._pending(connection, upload_id, owner)
                table.set_status(connection, upload_id, UploadStatus.COMPLETED)
                names.extend(table.delete_parts(connection, upload_id))

            file = await written.finish(
                owner=owner,
                purpose=upload.purpose,
                filename=upload.filename,
                expires_after_s=upload.file_expires_after_s,
                within=end,
            )
        await self._files.remove(names)
        return replace(upload, status=UploadStatus.COMPLETED), file

    async def _read(self, upload: PartedUpload, part: UploadPart, offset: int) -> bytes:
        """Read a chunk of a part. Raises NotStored or InvalidRequest if the upload has ended, which deletes its
        parts."""
        try:
            return await self._files.on_disk(self._files.disk.read, part.name, offset, _READ_BYTES)
        except StorageFailed:
            await self._files.database.run(lambda connection: self._pending(connection, upload.id, upload.owner))
            raise

    async def cancel(self, upload_id: str, owner: str) -> PartedUpload:
        """Cancel an upload and delete its parts. Raises NotStored if the owner has no such upload, and InvalidRequest
        if the upload has ended."""

        def work(connection: Connection) -> tuple[PartedUpload, list[str]]:
            upload = self._pending(connection, upload_id, owner)
            table.set_status(connection, upload_id, UploadStatus.CANCELLED)
            return upload, table.delete_parts(connection, upload_id)

        upload, names = await self._files.database.run(work, is_durable=True)
        await self._files.remove(names)
        return replace(upload, status=UploadStatus.CANCELLED)

    async def expire(self) -> None:
        """Delete expired uploads and their parts."""

        def work(connection: Connection) -> list[str]:
            names: list[str] = []
            for upload_id in table.expired_uploads(connection, self._files.clock()):
                names += table.delete_parts(connection, upload_id)
                table.delete_upload(connection, upload_id)
            return names

        await self._files.remove(await self._files.database.run(work, is_durable=True))

    async def names(self) -> set[str]:
        """Return the names on the disk of all parts."""
        return await self._files.database.run(table.part_names)

    def _pending(self, connection: Connection, upload_id: str, owner: str) -> PartedUpload:
        """Return a pending upload. Raises NotStored if the owner has no such upload, and InvalidRequest if the upload
        has ended."""
        upload = table.find_upload(connection, upload_id, owner)
        if upload is None:
            raise NotStored(f"No such Upload object: {upload_id[:80]}", param="upload_id")
        status = upload.at(self._files.clock()).status
        if status is not UploadStatus.PENDING:
            raise InvalidRequest(f"the upload is {status.value}; create another one", param="upload_id")
        return upload


def _chosen(upload: PartedUpload, known: dict[str, UploadPart], part_ids: Sequence[str]) -> list[UploadPart]:
    """Return the parts with these ids, in order. Raises InvalidRequest unless they are exactly the whole upload."""
    for part_id, count in Counter(part_ids).items():
        if part_id not in known:
            raise InvalidRequest(f"part_ids has {part_id[:80]!r}, which is not a part of the upload", param="part_ids")
        if count > 1:
            raise InvalidRequest(f"part_ids has {part_id[:80]!r} {count} times; list each part once", param="part_ids")
    parts = [known[part_id] for part_id in part_ids]
    if (total := sum(part.bytes for part in parts)) != upload.bytes:
        raise InvalidRequest(
            f"the parts have {total} bytes, and the upload was created for {upload.bytes}; send what is missing, or "
            "leave out what is not part of it",
            param="part_ids",
        )
    return parts
