"""GET /v1/usage: the token usage of a key, or of all keys for an operator."""

import datetime
import re
from functools import partial

from fastapi import APIRouter, Request
from starlette.responses import Response

from engine.errors import InvalidRequest
from server.context import ServerContext
from server.http.body import Context, json_response
from server.http.operators import require_operator
from server.http.query import ignored_query
from server.keys.caller import caller_of
from server.keys.key import BudgetPeriod
from server.keys.spending import period_start, utc_now
from server.keys.usage_report import usage_report
from server.schemas.base import quote
from server.schemas.usage import BudgetState, UsageReport
from server.store.usage_table import HOUR_S, BucketWidth, TooManyBuckets
from server.text.workers import ITEM_SIZE

router = APIRouter(tags=["Operations"])

_SECONDS = re.compile(r"[0-9]{1,11}")
_MAX_BUCKETS = 100_000


@router.get("/v1/usage")
async def usage(request: Request, context: Context) -> Response:
    """Report the token usage of the caller's key, or of all keys to an operator, by hour, day or month."""
    key = _whose(request)
    now = utc_now()
    since_s = _moment(request, "since", period_start(BudgetPeriod.MONTH, now)) // HOUR_S * HOUR_S
    until_s = -(-_moment(request, "until", now + datetime.timedelta(seconds=1)) // HOUR_S) * HOUR_S
    if until_s <= since_s:
        raise InvalidRequest("until is not after since", param="until")
    width = _width(request)
    try:
        rows = await context.keys.usage.read(since_s, until_s, key, width=width, max_buckets=_MAX_BUCKETS)
    except TooManyBuckets:
        raise InvalidRequest(
            f"there are more than {_MAX_BUCKETS} buckets in this time, the most that one answer can have; ask for a "
            "shorter time, or wider buckets",
            param="since",
        ) from None
    report_of = partial(usage_report, rows, width, since_s, until_s)
    buckets = await context.workers.run_unless_short(report_of, size=ITEM_SIZE * len(rows))
    report = UsageReport(data=buckets, budgets=_budgets(context, key))
    headers = ignored_query(request, "since", "until", "bucket", "key")
    return json_response(report, headers)


def _whose(request: Request) -> str | None:
    """Return the name of the key to report; None for all keys.

    Raises InsufficientPermissions if the caller is not an operator and asks for another key's usage.
    """
    caller, wanted = caller_of(request.scope), request.query_params.get("key")
    if caller.name is not None and not caller.is_operator and wanted in (None, caller.name):
        return caller.name
    require_operator(request.scope)
    return wanted


def _moment(request: Request, name: str, default: datetime.datetime) -> int:
    """Return the time in the query parameter `name`, or the default, as Unix seconds. Raises InvalidRequest."""
    given = request.query_params.get(name)
    if given is None:
        return int(default.timestamp())
    if _SECONDS.fullmatch(given):
        return int(given)
    try:
        moment = datetime.datetime.fromisoformat(given)
        if moment.tzinfo is not None:
            return int(moment.timestamp())
    except (ValueError, OverflowError):
        pass
    raise InvalidRequest(
        f"{name} is {quote(given)}; it must be seconds since 1970, or a time with its zone such as "
        "2027-01-31T00:00:00Z ('+' is %2B in a URL)",
        param=name,
    )


def _width(request: Request) -> BucketWidth:
    """Return the requested bucket width. Raises InvalidRequest."""
    given = request.query_params.get("bucket", BucketWidth.ALL.value)
    try:
        return BucketWidth(given)
    except ValueError:
        known = ", ".join(width.value for width in BucketWidth)
        raise InvalidRequest(f"bucket is {quote(given)}; it must be one of {known}", param="bucket") from None


def _budgets(context: ServerContext, key: str | None) -> list[BudgetState]:
    spending = context.keys.spending
    return [
        BudgetState(
            key=each.name,
            budget_tokens=each.budget_tokens,
            period=each.budget_period.value,
            used_tokens=spending.spent(each.name, each.budget_period),
            ends_at=int(spending.ends(each.budget_period).timestamp()),
        )
        for each in context.keys.ring.keys
        if each.budget_tokens is not None and key in (None, each.name)
    ]
