"""A disk and a database that a test cuts the power of, and what may be left of them then.

Of a file, what was synced is left; of what was written since, any part of each write, in any order, with zeros in
between. Of names, those that were synced, and any of the others. Of the database, as SQLite promises: every durable
transaction, and of those behind the last one the first few, whole.
"""

import random
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from server.store.database import MIGRATIONS, Database

T = TypeVar("T")


class PowerCut(BaseException):
    """Nothing is written any more, by anybody."""


class Power:
    """Ends at the operation of that number, counted from 1 over disk and database; before it or after it."""

    def __init__(self, ends_at: int | None, *, is_done: bool = False) -> None:
        """is_done: whether that operation still has its effect."""
        self.num_operations = 0
        self.is_off = False
        self._ends_at = ends_at
        self._is_done = is_done
        self._lock = threading.Lock()

    def spend(self, operation: Callable[[], T]) -> T:
        """Do the operation, or be off."""
        with self._lock:
            if self.is_off:
                raise PowerCut
            self.num_operations += 1
            if self.num_operations != self._ends_at:
                return operation()
            self.is_off = True
            if self._is_done:
                operation()
            raise PowerCut


class CrashingDisk:
    """A Disk in memory. full_at: numbers of the writes that find it full, having written a part."""

    def __init__(self, power: Power, *, full_at: frozenset[int] = frozenset()) -> None:
        self._power = power
        self._full_at = full_at
        self._num_writes = 0
        self._files: dict[str, bytearray] = {}
        self._synced: dict[str, bytes] = {}  # of each name, what a power cut leaves for sure
        self._unsynced: dict[str, list[tuple[int, bytes]]] = {}  # writes since, and sizes that were set as (size, b"")
        self._names: set[str] = set()  # that are synced

    def names(self) -> list[str]:
        return self._power.spend(lambda: list(self._files))

    def create(self, name: str) -> None:
        def work() -> None:
            if name not in self._files:
                self._files[name], self._synced[name], self._unsynced[name] = bytearray(), b"", []

        self._power.spend(work)

    def write(self, name: str, offset: int, data: bytes) -> None:
        def work() -> bool:
            self._num_writes += 1
            is_full = self._num_writes in self._full_at
            part = data[: len(data) // 2] if is_full else data
            _put(self._files[name], offset, part)
            self._unsynced[name].append((offset, part))
            return is_full

        if self._power.spend(work):
            raise OSError(28, "No space left on device")

    def read(self, name: str, offset: int, size: int) -> bytes:
        return self._power.spend(lambda: bytes(self._files[name][offset : offset + size]))

    def size(self, name: str) -> int:
        return self._power.spend(lambda: len(self._files[name]))

    def truncate(self, name: str, size: int) -> None:
        def work() -> None:
            file = self._files[name]
            del file[size:]
            file.extend(bytes(size - len(file)))
            self._unsynced[name].append((size, b""))

        self._power.spend(work)

    def remove(self, name: str) -> None:
        self._power.spend(lambda: self._files.pop(name, None))

    def sync(self, name: str) -> None:
        def work() -> None:
            self._synced[name] = bytes(self._files[name])
            self._unsynced[name] = []

        self._power.spend(work)

    def sync_names(self) -> None:
        def work() -> None:
            self._names = set(self._files)

        self._power.spend(work)

    def path(self, name: str) -> Path:
        raise AssertionError(f"nobody sends {name}")

    def content(self, name: str) -> bytes:
        return bytes(self._files[name])

    def after_crash(self, chance: random.Random, power: Power, *, full_at: frozenset[int]) -> "CrashingDisk":
        """What is left of it, with new power."""
        left = CrashingDisk(power, full_at=full_at)
        for name, synced in self._synced.items():
            if name not in self._names and chance.random() < 0.5:
                continue  # its name was not synced
            if name in self._names and name not in self._files and chance.random() < 0.5:
                continue  # its end was not synced, and is there all the same
            file = bytearray(synced)
            for offset, data in self._unsynced[name]:
                if chance.random() < 0.5:
                    continue
                if not data:
                    del file[offset:]
                    continue
                first, last = sorted(chance.randrange(len(data) + 1) for _ in range(2))
                _put(file, offset + first, data[first:last])
            left._files[name] = file
            left._synced[name], left._unsynced[name] = bytes(file), []
            left._names.add(name)
        return left


def _put(file: bytearray, offset: int, data: bytes) -> None:
    if data:
        file.extend(bytes(max(0, offset - len(file))))
        file[offset : offset + len(data)] = data


class CrashingDatabase(Database):
    """A database in memory that keeps what it was after each transaction since the last durable one."""

    def __init__(self, power: Power, image: bytes | None = None) -> None:
        super().__init__(":memory:", MIGRATIONS, None)
        self._power = power
        self._image = image
        self._images: list[bytes] = [] if image is None else [image]

    def _open(self) -> sqlite3.Connection:
        connection = super()._open()
        if self._image is not None:
            connection.deserialize(self._image)
        self._images = [connection.serialize()]
        return connection

    def _run(self, work: Callable[[sqlite3.Connection], T], is_durable: bool) -> T:
        if self._connection is None:
            self._open()
        connection = self._connection
        assert connection is not None

        def operation() -> T:
            before = connection.total_changes
            result = super(CrashingDatabase, self)._run(work, is_durable)
            if connection.total_changes != before or is_durable:
                image = connection.serialize()
                self._images = [image] if is_durable else [*self._images, image]
            return result

        return self._power.spend(operation)

    def look(self) -> sqlite3.Connection:
        """What is committed, for a reader who needs no power."""
        connection = sqlite3.connect(":memory:")
        if self._images:
            connection.deserialize(self._images[-1])
        return connection

    def after_crash(self, chance: random.Random, power: Power) -> "CrashingDatabase":
        return CrashingDatabase(power, chance.choice(self._images) if self._images else None)
