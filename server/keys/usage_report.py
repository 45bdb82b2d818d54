"""usage_report: rows of usage added up by key and stretch of time."""

import datetime
import enum
from collections.abc import Sequence

from server.keys.key import BudgetPeriod
from server.keys.spending import next_start, period_start
from server.schemas.usage import UsageBucket
from server.store.usage_table import HOUR_S, UsageRow


class BucketWidth(enum.StrEnum):
    """How much time is added up."""

    HOUR = "hour"
    DAY = "day"
    MONTH = "month"
    ALL = "all"


def usage_report(rows: Sequence[UsageRow], width: BucketWidth, since_s: int, until_s: int) -> list[UsageBucket]:
    """One for each key and stretch in which it was used, the oldest first. rows: in the order of their hours."""
    buckets: dict[tuple[int, str], UsageBucket] = {}
    for row in rows:
        start_s, end_s = (since_s, until_s) if width is BucketWidth.ALL else _stretch(row.hour_s, width)
        bucket = buckets.get((start_s, row.key))
        if bucket is None:
            bucket = UsageBucket(key=row.key or None, start_time=max(start_s, since_s), end_time=min(end_s, until_s))
            buckets[start_s, row.key] = bucket
        bucket.requests[row.outcome] = bucket.requests.get(row.outcome, 0) + row.requests
        bucket.prompt_tokens += row.prompt_tokens
        bucket.cached_tokens += row.cached_tokens
        bucket.output_tokens += row.output_tokens
        bucket.total_tokens += row.prompt_tokens + row.output_tokens
    return [buckets[place] for place in sorted(buckets)]


def _stretch(hour_s: int, width: BucketWidth) -> tuple[int, int]:
    """Beginning and end of the hour, day or month of UTC that an hour is in."""
    if width is BucketWidth.HOUR:
        return hour_s, hour_s + HOUR_S
    period = BudgetPeriod(width.value)
    start = period_start(period, datetime.datetime.fromtimestamp(hour_s, datetime.UTC))
    return int(start.timestamp()), int(next_start(period, start).timestamp())
