"""store_copy: files of a job's folder that become files of its key."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from server.errors import StorageFull
from server.files.disk import Disk
from server.files.store import new_file_id
from server.finetuning.jobs.record import FinetuningRecord
from server.finetuning.jobs.table import FinetuningJournal
from server.jobs.environment import JobEnvironment
from server.jobs.persistence import persist, shielded

_PART_BYTES = 1 << 20


async def store_copy(env: JobEnvironment, name: str, path: Path) -> int | StorageFull:
    """Copy a file to the disk of files, and sync it; return its size. Retries while the disk fails; returns the error
    if it is full. A file that does not exist is stored as an empty one."""
    files = env.files
    size = path.stat().st_size if path.exists() else 0

    async def write() -> int | StorageFull:
        try:
            await files.database.run(lambda connection: files.check_room(connection, size))
            await files.on_disk(_copy, files.disk, name, path)
        except StorageFull as error:
            return error
        return size

    return await persist(write, f"{path.name} of a fine-tuning job", sleep=env.sleep)


def _copy(disk: Disk, name: str, path: Path) -> None:
    """Write and sync a file, so that it survives a power cut. Raises OSError."""
    disk.create(name)
    offset = 0
    for part in _parts(path):
        disk.write(name, offset, part)
        offset += len(part)
    disk.sync(name)
    disk.sync_names()


def _parts(path: Path) -> Iterator[bytes]:
    if path.exists():
        with path.open("rb") as file:
            while part := file.read(_PART_BYTES):
                yield part


@contextmanager
def new_names(env: JobEnvironment, count: int) -> Iterator[list[str]]:
    """Reserve ids of files, which are not swept from the disk before they have rows."""
    names = [new_file_id() for _ in range(count)]
    env.files.writing.update(names)
    try:
        yield names
    finally:
        env.files.writing.difference_update(names)


async def remove_unknown(env: JobEnvironment, journal: FinetuningJournal, names: list[str]) -> None:
    """Remove files from the disk that did not become files of the job."""
    known = _files_of(journal.record)
    if unknown := [name for name in names if name not in known]:
        await shielded(env.files.remove(unknown))


def _files_of(record: FinetuningRecord) -> set[str]:
    return {*record.result_files, *([] if record.prepared_file is None else [record.prepared_file])}
