"""UsageTable: token usage per key and hour, without any content of requests."""

import enum
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass
from sqlite3 import Connection

from server.store.database import Database

HOUR_S = 3600


class BucketWidth(enum.StrEnum):
    """The length of time that one usage bucket covers."""

    HOUR = "hour"
    DAY = "day"
    MONTH = "month"
    ALL = "all"


# The start of the bucket that an hour belongs to, in SQL and UTC.
_STARTS = {
    BucketWidth.HOUR: "hour_s",
    BucketWidth.DAY: "hour_s - hour_s % 86400",
    BucketWidth.MONTH: "CAST(strftime('%s', hour_s, 'unixepoch', 'start of month') AS INTEGER)",
    BucketWidth.ALL: "0",
}
_SELECTED = "FROM usage WHERE hour_s >= ? AND hour_s < ? AND (? IS NULL OR key = ?)"
_SUMS = "SUM(requests), SUM(prompt_tokens), SUM(cached_tokens), SUM(output_tokens)"
_COLUMNS = "key, hour_s, outcome, requests, prompt_tokens, cached_tokens, output_tokens"


@dataclass(frozen=True, slots=True)
class UsageRow:
    """Usage of one key in one hour or longer bucket, by requests that ended with one outcome."""

    key: str  # name of the key; empty for keys without a name, and for clients without a key
    start_s: int  # start of the hour, in seconds since 1970
    outcome: str
    requests: int
    prompt_tokens: int
    cached_tokens: int
    output_tokens: int


class TooManyBuckets(Exception):
    """The result would have more buckets than the caller accepts."""


class UsageTable:
    """The database table of token usage. All methods raise StorageFailed."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, rows: Iterable[UsageRow]) -> None:
        """Add the rows to the stored usage, in one transaction."""
        values = [astuple(row) for row in rows]

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

    async def read(
        self,
        since_s: int,
        until_s: int,
        key: str | None = None,
        *,
        width: BucketWidth = BucketWidth.HOUR,
        max_buckets: int | None = None,
    ) -> Sequence[UsageRow]:
        """Return the usage in hours that start in [since_s, until_s), of one key or of all, ordered by bucket and key.

        Each bucket has a row per key and outcome; a bucket of all time starts at 0. Raises TooManyBuckets, before
        computing sums, if there are more than `max_buckets` combinations of bucket and key.
        """
        start, given = _STARTS[width], (since_s, until_s, key, key)

        def work(connection: Connection) -> list[UsageRow]:
            if max_buckets is not None:
                distinct = f"SELECT DISTINCT {start}, key {_SELECTED} LIMIT ?"
                counted = connection.execute(f"SELECT COUNT(*) FROM ({distinct})", (*given, max_buckets + 1))
                if counted.fetchone()[0] > max_buckets:
                    raise TooManyBuckets
            rows = connection.execute(
                f"SELECT key, {start} AS start_s, outcome, {_SUMS} {_SELECTED} "
                "GROUP BY start_s, key, outcome ORDER BY start_s, key, outcome",
                given,
            )
            return [UsageRow(*row) for row in rows]

        return await self._database.run(work)

    async def forget(self, before_s: int) -> None:
        """Delete the usage of hours that start before `before_s`."""
        await self._database.run(
            lambda connection: connection.execute("DELETE FROM usage WHERE hour_s < ?", (before_s,))
        )
