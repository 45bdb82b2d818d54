"""UsageTable: what keys used, an hour a row; beside the entries, and without any content."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from sqlite3 import Connection

from server.store.database import Database

HOUR_S = 3600

_COLUMNS = "key, hour_s, outcome, requests, prompt_tokens, cached_tokens, output_tokens"


@dataclass(frozen=True, slots=True)
class UsageRow:
    """Requests of one key with one outcome that ended in one hour."""

    key: str  # its name; empty for keys without one, and for clients without a key
    hour_s: int  # the hour's beginning, in seconds since 1970
    outcome: str
    requests: int
    prompt_tokens: int
    cached_tokens: int
    output_tokens: int


class UsageTable:
    """All methods raise StorageFailed."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, rows: Iterable[UsageRow]) -> None:
        """Add to what is there; all of them or none."""
        values = [
            (row.key, row.hour_s, row.outcome, row.requests, row.prompt_tokens, row.cached_tokens, row.output_tokens)
            for row in rows
        ]

        def work(connection: Connection) -> None:
            connection.executemany(
                f"INSERT INTO usage ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?) "
                "ON CONFLICT (hour_s, key, outcome) DO UPDATE SET requests = requests + excluded.requests, "
                "prompt_tokens = prompt_tokens + excluded.prompt_tokens, "
                "cached_tokens = cached_tokens + excluded.cached_tokens, "
                "output_tokens = output_tokens + excluded.output_tokens",
                values,
            )

        await self._database.run(work)

    async def read(self, since_s: int, until_s: int, key: str | None = None) -> Sequence[UsageRow]:
        """Of the hours that begin in [since_s, until_s), of one key or all, in the order of hours and keys."""

        def work(connection: Connection) -> list[UsageRow]:
            rows = connection.execute(
                f"SELECT {_COLUMNS} FROM usage WHERE hour_s >= ? AND hour_s < ? AND (? IS NULL OR key = ?) "
                "ORDER BY hour_s, key, outcome",
                (since_s, until_s, key, key),
            )
            return [UsageRow(*row) for row in rows]

        return await self._database.run(work)

    async def forget(self, before_s: int) -> None:
        """Delete the hours that begin before that time."""
        await self._database.run(
            lambda connection: connection.execute("DELETE FROM usage WHERE hour_s < ?", (before_s,))
        )
