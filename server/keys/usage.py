"""UsageBook: counts requests and tokens by key and hour, and stores the counts."""

import asyncio
import datetime
import logging
from collections import Counter
from collections.abc import Callable, Sequence

from server.errors import StorageFailed
from server.keys.key import BudgetPeriod
from server.keys.spending import Spending, period_start, utc_now
from server.metrics.request_record import RequestRecord
from server.metrics.values import Metrics
from server.store.usage_table import HOUR_S, BucketWidth, UsageRow, UsageTable

logger = logging.getLogger(__name__)

_FLUSH_S = 1.0  # between writes, which is lost if the process is killed
_KEPT_S = 400 * 86400  # a year, and time to report it

_UsageKey = tuple[str, int, str]  # key, hour, outcome
_REQUESTS, _PROMPT, _CACHED, _OUTPUT = range(4)


class UsageBook:
    """Counts requests as they end, and stores the counts once a second, so that no request waits for a disk.

    Counts that cannot be stored are kept and tried again.
    """

    def __init__(
        self,
        table: UsageTable,
        spending: Spending,
        metrics: Metrics,
        *,
        now: Callable[[], datetime.datetime] = utc_now,
    ) -> None:
        self._table = table
        self._spending = spending
        self._metrics = metrics
        self._now = now
        self._unwritten: dict[_UsageKey, Counter[int]] = {}
        self._writing = asyncio.Lock()
        self._has_failed = False

    async def load(self) -> None:
        """Read the month's spending from the database, and delete old rows. Raises StorageFailed."""
        now = self._now()
        await self._table.forget(int(now.timestamp()) - _KEPT_S)
        first_s, end_s = int(period_start(BudgetPeriod.MONTH, now).timestamp()), int(now.timestamp()) + HOUR_S
        for row in await self._table.read(first_s, end_s):
            at = datetime.datetime.fromtimestamp(row.start_s, datetime.UTC)
            self._spending.add(row.key, row.prompt_tokens + row.output_tokens, at)

    def add(self, record: RequestRecord) -> None:
        """Count a finished request."""
        hour_s = int(self._now().timestamp()) // HOUR_S * HOUR_S
        counts = self._unwritten.setdefault((record.key_name or "", hour_s, record.outcome.value), Counter())
        counts[_REQUESTS] += 1
        counts[_PROMPT] += record.counted_prompt_tokens
        counts[_CACHED] += record.cached_tokens
        counts[_OUTPUT] += record.output_tokens

    async def run(self) -> None:
        """Store counts once a second, until canceled."""
        while True:
            await asyncio.sleep(_FLUSH_S)
            await self.flush()

    async def flush(self) -> None:
        """Store the counts that are not stored yet. A failure is logged once, until a write succeeds.

        A write that has started continues if the caller is canceled, since its counts would be lost.
        """
        await asyncio.shield(self._flush())

    async def _flush(self) -> None:
        async with self._writing:
            taken, self._unwritten = self._unwritten, {}
            if not taken:
                return
            try:
                await self._table.add([_row(line, counts) for line, counts in taken.items()])
            except StorageFailed as error:
                for line, counts in taken.items():
                    self._unwritten.setdefault(line, Counter()).update(counts)
                if not self._has_failed:
                    logger.warning("usage could not be stored, and is stored later: %s", error)
                self._has_failed = True
                self._metrics.add("usage_write_failures_total", 1)
            else:
                self._has_failed = False

    async def read(
        self,
        since_s: int,
        until_s: int,
        key: str | None = None,
        *,
        width: BucketWidth = BucketWidth.HOUR,
        max_buckets: int | None = None,
    ) -> Sequence[UsageRow]:
        """Store pending counts, and return the usage of one key or all in [since_s, until_s), a row per bucket, key and
        outcome. Raises StorageFailed, and TooManyBuckets for over `max_buckets` combinations of bucket and key."""
        await self.flush()
        if self._unwritten and self._has_failed:
            raise StorageFailed("recent usage could not be stored, so it cannot be reported now")
        return await self._table.read(since_s, until_s, key, width=width, max_buckets=max_buckets)


def _row(line: _UsageKey, counts: Counter[int]) -> UsageRow:
    key, hour_s, outcome = line
    return UsageRow(key, hour_s, outcome, counts[_REQUESTS], counts[_PROMPT], counts[_CACHED], counts[_OUTPUT])
