"""rate_headers: what is left of a key's rate limits, as response headers of OpenAI's or Anthropic's API."""

import datetime
import math
from collections.abc import Iterator, Mapping

from starlette.types import Scope

from server.keys.account import LimitStatus
from server.keys.caller import caller_of
from server.keys.spending import utc_now
from server.paths import route_path
from server.protocols.path_forms import form_of

_KINDS = ("requests", "tokens")


def rate_headers(scope: Scope) -> Mapping[str, str]:
    """Return the response headers; {} for a caller without limits on requests and tokens."""
    account = caller_of(scope).account
    if account is None:
        return {}
    form = _anthropic if form_of(route_path(scope)).has_anthropic_headers else _openai
    parts = zip(_KINDS, (account.requests_left, account.tokens_left), strict=True)
    return {name: value for kind, left in parts if left is not None for name, value in form(kind, left)}


def _openai(kind: str, left: LimitStatus) -> Iterator[tuple[str, str]]:
    yield f"x-ratelimit-limit-{kind}", str(left.limit)
    yield f"x-ratelimit-remaining-{kind}", str(left.remaining)
    yield f"x-ratelimit-reset-{kind}", duration_text(left.reset_s)


def _anthropic(kind: str, left: LimitStatus) -> Iterator[tuple[str, str]]:
    """Yield Anthropic's headers of one limit. The reset is the time when the limit is fully available again."""
    full = utc_now() + datetime.timedelta(seconds=math.ceil(left.reset_s))
    yield f"anthropic-ratelimit-{kind}-limit", str(left.limit)
    yield f"anthropic-ratelimit-{kind}-remaining", str(left.remaining)
    yield f"anthropic-ratelimit-{kind}-reset", f"{full:%Y-%m-%dT%H:%M:%SZ}"


def duration_text(seconds: float) -> str:
    """Return the duration in Go's form, rounded up to the millisecond: 0s, 28ms, 8.64s, 6m0s, 1h0m0.5s."""
    milliseconds = math.ceil(seconds * 1000)
    if milliseconds < 1000:
        return f"{milliseconds}ms" if milliseconds else "0s"
    minutes, rest = divmod(milliseconds, 60_000)
    hours, minutes = divmod(minutes, 60)
    text = f"{rest / 1000:.3f}".rstrip("0").rstrip(".") + "s"
    if minutes or hours:
        text = f"{minutes}m{text}"
    return f"{hours}h{text}" if hours else text
