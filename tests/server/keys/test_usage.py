"""Usage by key: counted as requests end, stored once a second, and still there after a restart."""

import asyncio
import datetime
from collections.abc import Iterable
from pathlib import Path

import pytest

from engine.protocol import FinishReason
from server.errors import StorageFailed
from server.keys.key import BudgetPeriod
from server.keys.spending import Spending
from server.keys.usage import UsageBook
from server.keys.usage_report import usage_report
from server.metrics.request_record import RequestRecord
from server.metrics.values import Metrics
from server.store.database import Database, memory_database
from server.store.opening import open_database
from server.store.usage_table import BucketWidth, TooManyBuckets, UsageRow, UsageTable

pytestmark = pytest.mark.fast

NOON = datetime.datetime(2026, 3, 31, 12, 30, tzinfo=datetime.UTC)
HOUR_S = int(NOON.timestamp()) - 1800
ALL_TIME = (0, 2**40)


class Now:
    def __init__(self) -> None:
        self.moment = NOON

    def __call__(self) -> datetime.datetime:
        return self.moment


def _book(database: Database, now: Now | None = None, metrics: Metrics | None = None) -> tuple[UsageBook, Spending]:
    now = now or Now()
    spending = Spending(now)
    return UsageBook(UsageTable(database), spending, metrics or Metrics("m"), now=now), spending


def _record(key: str | None = "ann", *, prompt: int = 10, cached: int = 4, output: int = 3) -> RequestRecord:
    record = RequestRecord("id", "POST", lambda _: None)
    record.key_name, record.status, record.has_started = key, 200, True
    record.counted_prompt_tokens, record.cached_tokens, record.output_tokens = prompt, cached, output
    record.note_ends([FinishReason.STOP])
    return record


async def test_requests_add_up_by_key_hour_and_outcome() -> None:
    now = Now()
    book, _ = _book(memory_database(), now)
    for _ in range(2):
        book.add(_record())
    book.add(_record(None, prompt=1, cached=0, output=1))
    await book.flush()
    aborted = _record()
    aborted.note_ends([FinishReason.ABORT])
    book.add(aborted)
    now.moment += datetime.timedelta(hours=1)
    book.add(_record())
    rows = await book.read(*ALL_TIME)
    assert rows == [
        UsageRow("", HOUR_S, "completed", 1, 1, 0, 1),
        UsageRow("ann", HOUR_S, "aborted", 1, 10, 4, 3),
        UsageRow("ann", HOUR_S, "completed", 2, 20, 8, 6),
        UsageRow("ann", HOUR_S + 3600, "completed", 1, 10, 4, 3),
    ]
    assert await book.read(*ALL_TIME, "") == rows[:1]
    assert await book.read(HOUR_S + 3600, 2**40) == rows[3:]


async def test_spending_is_there_again_after_a_restart(tmp_path: Path) -> None:
    with open_database(tmp_path) as database:
        book, _ = _book(database)
        book.add(_record())
        await book.flush()
    with open_database(tmp_path) as database:
        book, spending = _book(database)
        await book.load()
        assert spending.spent("ann", BudgetPeriod.MONTH) == spending.spent("ann", BudgetPeriod.DAY) == 13
        later = Now()
        later.moment += datetime.timedelta(days=1)
        book, spending = _book(database, later)
        await book.load()
        assert spending.spent("ann", BudgetPeriod.MONTH) == 0
        later.moment += datetime.timedelta(days=401)
        await book.load()
        assert not await book.read(*ALL_TIME)


class BrokenTable(UsageTable):
    is_broken = True

    async def add(self, rows: object) -> None:
        if self.is_broken:
            raise StorageFailed("no room")
        await super().add(rows)  # type: ignore[arg-type]


async def test_what_cannot_be_written_is_kept_and_told_once(caplog: pytest.LogCaptureFixture) -> None:
    table, metrics = BrokenTable(memory_database()), Metrics("m")
    book = UsageBook(table, Spending(), metrics)
    for _ in range(3):
        book.add(_record())
        await book.flush()
    assert metrics.value("usage_write_failures_total") == 3
    assert caplog.text.count("usage could not be stored") == 1
    with pytest.raises(StorageFailed):
        await book.read(*ALL_TIME)
    table.is_broken = False
    (row,) = await book.read(*ALL_TIME)
    assert (row.requests, row.output_tokens) == (3, 9)


class SlowTable(UsageTable):
    """Writes when it may."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self.may_write = asyncio.Event()

    async def add(self, rows: Iterable[UsageRow]) -> None:
        await self.may_write.wait()
        await super().add(rows)


async def test_a_write_that_has_begun_outlives_its_caller() -> None:
    table = SlowTable(memory_database())
    book = UsageBook(table, Spending(), Metrics("m"))
    book.add(_record())
    first = asyncio.create_task(book.flush())
    await asyncio.sleep(0)
    await asyncio.sleep(0)  # it has taken what there was
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    table.may_write.set()
    (row,) = await book.read(*ALL_TIME)
    assert row.requests == 1


@pytest.mark.parametrize(
    ("width", "expected"),
    [
        (BucketWidth.ALL, [("ann", 0, 10**10, 6), ("ben", 0, 10**10, 8)]),
        (
            BucketWidth.MONTH,
            [
                ("ann", "2026-03-01", "2026-04-01", 3),
                ("ben", "2026-03-01", "2026-04-01", 8),
                ("ann", "2026-04-01", "2026-05-01", 3),
            ],
        ),
        (
            BucketWidth.DAY,
            [
                ("ann", "2026-03-31", "2026-04-01", 3),
                ("ben", "2026-03-31", "2026-04-01", 8),
                ("ann", "2026-04-01", "2026-04-02", 3),
            ],
        ),
        (
            BucketWidth.HOUR,
            [
                ("ann", "2026-03-31T22", "2026-03-31T23", 1),
                ("ann", "2026-03-31T23", "2026-04-01T00", 2),
                ("ben", "2026-03-31T23", "2026-04-01T00", 8),
                ("ann", "2026-04-01T00", "2026-04-01T01", 3),
            ],
        ),
    ],
)
async def test_a_report_adds_up_hours(
    width: BucketWidth, expected: list[tuple[str, str | int, str | int, int]]
) -> None:
    table = UsageTable(memory_database())
    hours = [
        UsageRow("ann", _seconds("2026-03-31T22"), "completed", 1, 1, 0, 0),
        UsageRow("ann", _seconds("2026-03-31T23"), "completed", 1, 0, 0, 2),
        UsageRow("ben", _seconds("2026-03-31T23"), "aborted", 1, 0, 0, 8),
        UsageRow("ann", _seconds("2026-04-01T00"), "refused", 1, 3, 0, 0),
    ]
    await table.add(hours)
    report = usage_report(await table.read(*ALL_TIME, width=width), width, 0, 10**10)
    assert [(each.key, each.start_time, each.end_time, each.total_tokens) for each in report] == [
        (key, _seconds(start), _seconds(end), tokens) for key, start, end, tokens in expected
    ]
    assert sum(sum(each.requests.values()) for each in report) == 4


@pytest.mark.parametrize(
    ("width", "key", "num_buckets"),
    [(BucketWidth.HOUR, None, 5), (BucketWidth.DAY, None, 3), (BucketWidth.HOUR, "ann", 4), (BucketWidth.ALL, None, 2)],
)
async def test_more_buckets_than_may_be_are_not_added_up(width: BucketWidth, key: str | None, num_buckets: int) -> None:
    table = UsageTable(memory_database())
    await table.add(UsageRow("ann", HOUR_S + 6 * number * 3600, "completed", 1, 0, 0, 0) for number in range(4))
    await table.add(UsageRow("ben", HOUR_S, outcome, 1, 0, 0, 0) for outcome in ("completed", "refused"))
    rows = await table.read(*ALL_TIME, key, width=width, max_buckets=num_buckets)
    assert len({(row.start_s, row.key) for row in rows}) == num_buckets
    with pytest.raises(TooManyBuckets):
        await table.read(*ALL_TIME, key, width=width, max_buckets=num_buckets - 1)


def _seconds(moment: str | int) -> int:
    if isinstance(moment, int):
        return moment
    return int(datetime.datetime.fromisoformat(moment).replace(tzinfo=datetime.UTC).timestamp())
