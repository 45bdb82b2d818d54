"""Disk: the only interface through which file contents are written, so that tests can inject failures at any point.

Only synced changes survive a power cut: `sync` covers a file's contents, `sync_names` the creation and removal of
files.
"""

import contextlib
import os
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

_PRIVATE_FILE, _PRIVATE_FOLDER = 0o600, 0o700


class Disk(Protocol):
    """Files in one flat folder, by name. Methods block, raise OSError, and may be called from any thread, but only one
    at a time for the same file."""

    def names(self) -> list[str]: ...

    def create(self, name: str) -> None:
        """Create an empty file, unless the name exists."""

    def write(self, name: str, offset: int, data: bytes) -> None:
        """Write `data` at `offset`. If this raises, a part may have been written."""

    def read(self, name: str, offset: int, size: int) -> bytes:
        """Return up to `size` bytes from `offset`; fewer at the end of the file."""

    def size(self, name: str) -> int: ...

    def truncate(self, name: str, size: int) -> None: ...

    def remove(self, name: str) -> None:
        """Remove the file, if it exists."""

    def sync(self, name: str) -> None:
        """Flush the file's contents to the disk, so that they survive a power cut."""

    def sync_names(self) -> None:
        """Flush the folder to the disk, so that created and removed files survive a power cut."""

    def path(self, name: str) -> Path:
        """Return the path of an existing file, for reading."""


class FolderDisk:
    """A Disk in a real folder, which the first write creates with access only for this user."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def names(self) -> list[str]:
        try:
            return os.listdir(self._folder)
        except FileNotFoundError:
            return []

    def create(self, name: str) -> None:
        self._folder.mkdir(mode=_PRIVATE_FOLDER, exist_ok=True)
        os.close(os.open(self.path(name), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, _PRIVATE_FILE))

    def write(self, name: str, offset: int, data: bytes) -> None:
        with _opened(self.path(name), os.O_WRONLY) as file:
            view = memoryview(data)
            while view:
                written = os.pwrite(file, view, offset)
                view, offset = view[written:], offset + written

    def read(self, name: str, offset: int, size: int) -> bytes:
        with _opened(self.path(name), os.O_RDONLY) as file:
            return os.pread(file, size, offset)

    def size(self, name: str) -> int:
        return self.path(name).stat().st_size

    def truncate(self, name: str, size: int) -> None:
        os.truncate(self.path(name), size)

    def remove(self, name: str) -> None:
        self.path(name).unlink(missing_ok=True)

    def sync(self, name: str) -> None:
        with _opened(self.path(name), os.O_RDONLY) as file:
            os.fsync(file)

    def sync_names(self) -> None:
        for folder in (self._folder, self._folder.parent):  # the folder itself may be new
            with _opened(folder, os.O_RDONLY) as file:
                os.fsync(file)

    def path(self, name: str) -> Path:
        return self._folder / name


class TemporaryDisk(FolderDisk):
    """A Disk in a temporary folder, which the first write creates and which is removed when the process ends."""

    def __init__(self) -> None:
        super().__init__(Path())
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        self._making = threading.Lock()  # several threads may be the first

    def names(self) -> list[str]:
        return [] if self._temporary is None else super().names()

    def create(self, name: str) -> None:
        with self._making:
            if self._temporary is None:
                temporary = tempfile.TemporaryDirectory(prefix="headrace-files-")  # which removes itself
                self._folder = Path(temporary.name)
                self._temporary = temporary
        super().create(name)


def disk_of(data_dir: str | None) -> Disk:
    """Return the disk in --data-dir, or a temporary disk without that option."""
    return TemporaryDisk() if data_dir is None else FolderDisk(Path(data_dir) / "files")


@contextlib.contextmanager
def _opened(path: Path, flags: int) -> Iterator[int]:
    file = os.open(path, flags | os.O_CLOEXEC)
    try:
        yield file
    finally:
        os.close(file)
