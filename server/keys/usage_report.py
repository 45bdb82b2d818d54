"""usage_report: adds up rows of usage by key and period, as /v1/usage reports them."""

import datetime
from collections.abc import Sequence

from server.keys.key import BudgetPeriod
from server.keys.spending import next_start
from server.schemas.usage import UsageBucket
from server.store.usage_table import HOUR_S, BucketWidth, UsageRow


def usage_report(rows: Sequence[UsageRow], width: BucketWidth, since_s: int, until_s: int) -> list[UsageBucket]:
    """Return a bucket for each key and period with usage, oldest first. rows: as read with this `width`."""
    buckets: dict[tuple[int, str], UsageBucket] = {}
    for row in rows:
        start_s, end_s = (since_s, until_s) if width is BucketWidth.ALL else _period(row.start_s, width)
        bucket = buckets.get((start_s, row.key))
        if bucket is None:
            bucket = UsageBucket(key=row.key or None, start_time=max(start_s, since_s), end_time=min(end_s, until_s))
            buckets[start_s, row.key] = bucket
        bucket.requests[row.outcome] = bucket.requests.get(row.outcome, 0) + row.requests
        bucket.prompt_tokens += row.prompt_tokens
        bucket.cached_tokens += row.cached_tokens
        bucket.output_tokens += row.output_tokens
        bucket.total_tokens += row.prompt_tokens + row.output_tokens
    return [buckets[key] for key in sorted(buckets)]


def _period(start_s: int, width: BucketWidth) -> tuple[int, int]:
    """Return the start and end of the UTC hour, day or month that starts at `start_s`."""
    if width is BucketWidth.HOUR:
        return start_s, start_s + HOUR_S
    start = datetime.datetime.fromtimestamp(start_s, datetime.UTC)
    return start_s, int(next_start(BudgetPeriod(width.value), start).timestamp())
