"""Entries: stored objects with lists of items, within limits of size and age."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from sqlite3 import Connection
from typing import Any, TypeVar

import msgspec

from server.store.database import Database
from server.store.steady_clock import SteadyClock

T = TypeVar("T")

_OVERHEAD_BYTES = 512  # of an entry or item besides its body, with its share of the indexes

Item = dict[str, Any]  # an object with an id


@dataclass(frozen=True, slots=True)
class Entry:
    """One stored object, such as a response or a conversation."""

    id: str
    kind: str
    owner: str
    created_s: int
    state: str  # label that `with_states` searches for; "" for none
    body: dict[str, Any]


class Entries:
    """The stored objects of all features, in one database.

    Beyond `max_bytes`, the least recently used entries of any kind are dropped. Each entry is dropped `max_age_s` after
    its last use. An entry is found only with its owner's id. All methods raise StorageFailed.
    """

    def __init__(
        self, database: Database, *, max_bytes: int, max_age_s: float, clock: Callable[[], float] | None = None
    ) -> None:
        """clock: returns Unix seconds; by default a SteadyClock."""
        self._database = database
        self._max_bytes = max_bytes
        self._max_age_s = max_age_s
        self._clock = clock or SteadyClock()

    @property
    def database(self) -> Database:
        """The database of the entries, where other features keep their own tables."""
        return self._database

    async def put(self, entry: Entry, items: Iterable[tuple[str, Item]] = ()) -> bool:
        """Store or replace an entry. items: pairs of a part's name and an item in it. Return False, and store nothing,
        if the entry alone is larger than `max_bytes`."""
        body = msgspec.json.encode(entry.body)
        rows = [(part, item["id"], msgspec.json.encode(item)) for part, item in items]
        size = len(body) + _OVERHEAD_BYTES + sum(len(row[2]) + _OVERHEAD_BYTES for row in rows)
        now = self._clock()

        def work(connection: Connection) -> bool:
            connection.execute("DELETE FROM entries WHERE id = ?", (entry.id,))
            if size > self._max_bytes:
                return False
            connection.execute(
                "INSERT INTO entries VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (entry.id, entry.kind, entry.owner, entry.created_s, now, entry.state, size, body),
            )
            _insert_items(connection, entry.id, 0, rows)
            self._evict(connection, now)
            return True

        return await self._database.run(work)

    async def get(self, kind: str, entry_id: str, owner: str) -> Entry | None:
        return await self._database.run(lambda connection: self._get(connection, kind, entry_id, owner))

    def _get(self, connection: Connection, kind: str, entry_id: str, owner: str) -> Entry | None:
        row = connection.execute(
            "SELECT id, kind, owner, created_s, state, body FROM entries "
            "WHERE id = ? AND kind = ? AND owner = ? AND used_s >= ?",
            (entry_id, kind, owner, self._clock() - self._max_age_s),
        ).fetchone()
        return None if row is None else _entry(row)

    async def update(self, kind: str, entry_id: str, owner: str, change: Callable[[Entry], Entry]) -> Entry | None:
        """Replace an entry by the result of `change`, and return it; None if there is no such entry."""

        def work(connection: Connection) -> Entry | None:
            entry = self._get(connection, kind, entry_id, owner)
            if entry is None:
                return None
            changed = change(entry)
            body = msgspec.json.encode(changed.body)
            grown = len(body) - len(msgspec.json.encode(entry.body))
            connection.execute(
                "UPDATE entries SET body = ?, state = ?, used_s = ?, size = size + ? WHERE id = ?",
                (body, changed.state, self._clock(), grown, entry_id),
            )
            return changed

        return await self._database.run(work)

    async def delete(self, kind: str, entry_id: str, owner: str) -> bool:
        """Delete an entry, and erase its content from the database's files; return whether there was one."""

        def work(connection: Connection) -> bool:
            if self._get(connection, kind, entry_id, owner) is None:
                return False
            connection.execute("DELETE FROM entries WHERE id = ?", (entry_id,))
            return True

        if was_there := await self._database.run(work):
            await self._database.truncate()
        return was_there

    async def chain(self, kind: str, entry_id: str, owner: str, link: str) -> tuple[list[Entry], str | None]:
        """Return an entry and its predecessors, oldest first, and the id at which the chain breaks because that entry
        is missing, or None. link: the body field with the predecessor's id. Counts as a use of all of them."""

        def work(connection: Connection) -> tuple[list[Entry], str | None]:
            entries: list[Entry] = []
            seen: set[str] = set()
            wanted: str | None = entry_id
            while wanted is not None and wanted not in seen:
                entry = self._get(connection, kind, wanted, owner)
                if entry is None:
                    return entries[::-1], wanted
                seen.add(wanted)
                entries.append(entry)
                wanted = entry.body.get(link)
            now = self._clock()
            connection.executemany("UPDATE entries SET used_s = ? WHERE id = ?", [(now, each.id) for each in entries])
            return entries[::-1], None

        return await self._database.run(work)

    async def with_states(self, kind: str, states: Sequence[str]) -> list[Entry]:
        """Return all owners' entries that are in one of the states."""
        marks = ", ".join("?" * len(states))
        query = f"SELECT id, kind, owner, created_s, state, body FROM entries WHERE kind = ? AND state IN ({marks})"
        rows = await self._database.run(lambda connection: connection.execute(query, (kind, *states)).fetchall())
        return [_entry(row) for row in rows]

    # --- items --------------------------------------------------------------------------------------------------------

    async def items(self, entry_id: str, *parts: str) -> list[Item]:
        """Return the items of an entry in order. parts: names of the parts to return; by default all."""
        rows = await self._database.run(
            lambda connection: connection.execute(
                "SELECT part, body FROM items WHERE entry = ? ORDER BY position", (entry_id,)
            ).fetchall()
        )
        return [msgspec.json.decode(body) for part, body in rows if not parts or part in parts]

    async def find_item(self, item_id: str, owner: str) -> Item | None:
        """Return the newest item with this id in any of the owner's entries."""

        def work(connection: Connection) -> Item | None:
            row = connection.execute(
                "SELECT items.body FROM items JOIN entries ON entries.id = items.entry "
                "WHERE items.id = ? AND entries.owner = ? ORDER BY entries.used_s DESC LIMIT 1",
                (item_id, owner),
            ).fetchone()
            return None if row is None else msgspec.json.decode(row[0])

        return await self._database.run(work)

    async def append_items(self, entry_id: str, part: str, items: Sequence[Item]) -> bool:
        """Add items at the end of an entry; return False if the entry no longer exists."""
        rows = [(part, item["id"], msgspec.json.encode(item)) for item in items]
        now = self._clock()

        def work(connection: Connection) -> bool:
            (last,) = connection.execute("SELECT max(position) FROM items WHERE entry = ?", (entry_id,)).fetchone()
            size = sum(len(row[2]) + _OVERHEAD_BYTES for row in rows)
            changed = connection.execute(
                "UPDATE entries SET used_s = ?, size = size + ? WHERE id = ?", (now, size, entry_id)
            ).rowcount
            if not changed:
                return False
            _insert_items(connection, entry_id, 0 if last is None else last + 1, rows)
            self._evict(connection, now)
            return True

        return await self._database.run(work)

    async def delete_item(self, entry_id: str, item_id: str) -> bool:
        """Delete an item; return whether there was one."""

        def work(connection: Connection) -> bool:
            freed = connection.execute(
                "SELECT sum(length(body) + ?) FROM items WHERE entry = ? AND id = ?",
                (_OVERHEAD_BYTES, entry_id, item_id),
            ).fetchone()[0]
            if freed is None:
                return False
            connection.execute("DELETE FROM items WHERE entry = ? AND id = ?", (entry_id, item_id))
            connection.execute("UPDATE entries SET size = size - ? WHERE id = ?", (freed, entry_id))
            return True

        if was_there := await self._database.run(work):
            await self._database.truncate()
        return was_there

    # --- limits -------------------------------------------------------------------------------------------------------

    def _evict(self, connection: Connection, now: float) -> None:
        connection.execute("DELETE FROM entries WHERE used_s < ?", (now - self._max_age_s,))
        while connection.execute("SELECT bytes FROM totals").fetchone()[0] > self._max_bytes:
            connection.execute("DELETE FROM entries WHERE id = (SELECT id FROM entries ORDER BY used_s LIMIT 1)")

    async def expire(self) -> None:
        """Drop entries that are too old. Every write does this too, so only the start of a server needs to call it."""
        await self._database.run(lambda connection: self._evict(connection, self._clock()))

    async def check(self) -> None:
        """Assert that the recorded sizes are right and within the limit."""

        def work(connection: Connection) -> None:
            entries = connection.execute("SELECT id, size, length(body) FROM entries").fetchall()
            for entry_id, size, body in entries:
                (items,) = connection.execute(
                    "SELECT coalesce(sum(length(body) + ?), 0) FROM items WHERE entry = ?", (_OVERHEAD_BYTES, entry_id)
                ).fetchone()
                assert size == body + _OVERHEAD_BYTES + items, entry_id
            total = sum(size for _, size, _ in entries)
            assert connection.execute("SELECT bytes FROM totals").fetchone() == (total,)
            assert total <= self._max_bytes
            orphans = connection.execute("SELECT count(*) FROM items WHERE entry NOT IN (SELECT id FROM entries)")
            assert orphans.fetchone() == (0,)

        await self._database.run(work)


def _entry(row: Any) -> Entry:
    entry_id, kind, owner, created_s, state, body = row
    return Entry(entry_id, kind, owner, created_s, state, msgspec.json.decode(body))


def _insert_items(connection: Connection, entry_id: str, first: int, rows: list[tuple[str, str, bytes]]) -> None:
    connection.executemany(
        "INSERT INTO items VALUES (?, ?, ?, ?, ?)",
        [(entry_id, position, *row) for position, row in enumerate(rows, first)],
    )
