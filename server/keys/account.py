"""Account: tracks how much a key has used of its limits."""

import enum
import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

from engine.wording import counted
from server.errors import BudgetSpent, RateLimited, TokensLimited
from server.keys.bucket import Hold, TokenBucket
from server.keys.key import ApiKey
from server.keys.spending import Spending

# Reserved for an answer without a limit. Few are as long as fits, and the first one would take a key's whole minute.
OPEN_ENDED_TOKENS = 1024
_CONCURRENCY_RETRY_S = 1.0  # it is not known when a running request ends


class Limit(enum.StrEnum):
    """Kind of limit for which a key's requests are refused."""

    REQUESTS = "requests"
    TOKENS = "tokens"
    CONCURRENCY = "concurrency"
    BUDGET = "budget"


@dataclass(eq=False, slots=True)
class TokenReservation:
    """Tokens that one request reserves from its start to its end."""

    num_tokens: int
    hold: Hold | None
    is_open: bool = True


@dataclass(slots=True)
class ReservedBudget:
    """Sum of the open reservations of all accounts that share a budget."""

    num_tokens: int = 0


@dataclass(frozen=True, slots=True)
class LimitStatus:
    """Remaining amount of a limit, and seconds until all of it is available again."""

    limit: int
    remaining: int
    reset_s: float


class Account:
    """Tracks one key's use of its limits, and keeps it when the limits change. For one event loop.

    Invariants: `num_open` reservations are open; `_own_reserved` is their sum, which `reserved` includes.
    """

    def __init__(
        self,
        key: ApiKey,
        spending: Spending,
        *,
        on_refused: Callable[[str, Limit], None] = lambda _name, _limit: None,
        clock: Callable[[], float] = time.monotonic,
        reserved: ReservedBudget | None = None,
    ) -> None:
        """on_refused: called with the key's name and the limit. clock: monotonic time in seconds. reserved: the
        ReservedBudget of another account of the same key, to share the budget with that account."""
        self.num_open = 0
        self.requests: TokenBucket | None = None
        self.tokens: TokenBucket | None = None
        self._key = key
        self._spending = spending
        self._on_refused = on_refused
        self._clock = clock
        self.reserved = reserved or ReservedBudget()
        self._own_reserved = 0
        self.set_limits(key)

    def set_limits(self, key: ApiKey) -> None:
        """Apply the limits of a changed key; previous use still counts."""
        self._key = key
        self.requests = self._bucket(self.requests, key.requests_per_minute)
        self.tokens = self._bucket(self.tokens, key.tokens_per_minute)

    def _bucket(self, bucket: TokenBucket | None, per_minute: int | None) -> TokenBucket | None:
        if per_minute is None or bucket is None:
            return None if per_minute is None else TokenBucket(per_minute, self._clock)
        bucket.change_rate(per_minute)
        return bucket

    def count_request(self) -> Hold | None:
        """Count a request, and return the hold for `end_request`; None without a rate limit. Raises
        RateLimited if the limit is reached."""
        if self.requests is None or (hold := self.requests.hold(1)) is not None:
            return None if self.requests is None else hold
        wait_s, per_minute = self.requests.wait_s(1), self._key.requests_per_minute
        assert per_minute is not None
        may = f"may send {counted(per_minute, 'request')} a minute"
        raise self._refused(Limit.REQUESTS, f"{may}; the next one is accepted in {wait_s:.1f} s", wait_s)

    def end_request(self, hold: Hold | None, *, is_counted: bool) -> None:
        """Settle the hold of `count_request`. is_counted: False if the server had no room for the request."""
        if hold is not None and self.requests is not None and hold in self.requests:
            self.requests.settle(hold, int(is_counted))

    def check_available(self) -> None:
        """Raise the errors that `reserve` would raise for the smallest request. An early check, without the prompt."""
        self._check_concurrency()
        self._check_budget(1)
        if self.tokens is not None and self.tokens.level < 1:
            raise self._tokens_refused(self.tokens, 1)

    def reserve(self, prompt_tokens: int, output_tokens: int, *, is_open_ended: bool) -> TokenReservation:
        """Reserve tokens for a request's prompts and the maximum of its output. is_open_ended: the output has no limit
        of its own, so less is reserved if the key's limits require it.

        Raises RateLimited, TokensLimited or BudgetSpent, and then nothing is reserved.
        """
        self._check_concurrency()
        least = prompt_tokens + 1
        wanted = prompt_tokens + output_tokens
        if is_open_ended:
            wanted = max(least, min(wanted, self._max_reservation()))
        self._check_budget(wanted)
        hold = None
        if self.tokens is not None and (hold := self.tokens.hold(wanted)) is None:
            raise self._tokens_refused(self.tokens, wanted)
        self.num_open += 1
        self._own_reserved += wanted
        self.reserved.num_tokens += wanted
        return TokenReservation(wanted, hold)

    def settle(self, reservation: TokenReservation, used_tokens: int) -> None:
        """End a reservation, and count the tokens of prompts and output that were used. A second call has no effect."""
        if not reservation.is_open:
            return
        reservation.is_open = False
        self.num_open -= 1
        self._own_reserved -= reservation.num_tokens
        self.reserved.num_tokens -= reservation.num_tokens
        self._spending.add(self._key.name, used_tokens)
        if reservation.hold is not None and self.tokens is not None and reservation.hold in self.tokens:
            self.tokens.settle(reservation.hold, used_tokens)

    @property
    def budget_left(self) -> int | None:
        """Tokens of the current period that are neither used nor reserved; None without a budget."""
        budget = self._key.budget_tokens
        if budget is None:
            return None
        return budget - self._spending.spent(self._key.name, self._key.budget_period) - self.reserved.num_tokens

    @property
    def requests_left(self) -> LimitStatus | None:
        """Status of the requests per minute; None without such a limit."""
        return None if self.requests is None else _left_in(self.requests)

    @property
    def tokens_left(self) -> LimitStatus | None:
        """Status of the tokens per minute or the token budget, whichever has less left; None if the key has neither."""
        parts = [] if self.tokens is None else [_left_in(self.tokens)]
        if (left := self.budget_left) is not None and (budget := self._key.budget_tokens) is not None:
            parts.append(LimitStatus(budget, max(0, left), self._spending.seconds_left(self._key.budget_period)))
        return min(parts, key=lambda part: (part.remaining, -part.reset_s), default=None)

    def _max_reservation(self) -> int:
        """Return the most tokens that a request can reserve, however long it waits."""
        limits = (self._key.tokens_per_minute, self.budget_left)
        return min((limit for limit in limits if limit is not None), default=sys.maxsize)

    def _check_concurrency(self) -> None:
        limit = self._key.max_concurrency
        if limit is not None and self.num_open >= limit:
            may = f"may have {counted(limit, 'request')} at a time"
            raise self._refused(Limit.CONCURRENCY, f"{may}; wait until one has ended", _CONCURRENCY_RETRY_S)

    def _check_budget(self, wanted: int) -> None:
        left, period = self.budget_left, self._key.budget_period
        if left is None or wanted <= left:
            return
        self._on_refused(self._key.name, Limit.BUDGET)
        ends = self._spending.ends(period)
        request = ";" if wanted <= 1 else f", and this request may use {wanted}; ask for fewer, or"
        raise BudgetSpent(
            f"the key {self._key.name!r} has {max(0, left)} of its {self._key.budget_tokens} tokens a {period} left"
            f"{request} wait until {ends:%Y-%m-%dT%H:%M:%SZ}",
            retry_after_s=self._spending.seconds_left(period),
        )

    def _tokens_refused(self, bucket: TokenBucket, wanted: float) -> RateLimited:
        self._on_refused(self._key.name, Limit.TOKENS)
        may = f"the key {self._key.name!r} may use {self._key.tokens_per_minute} tokens a minute"
        if wanted > bucket.capacity:
            return TokensLimited(
                f"{may}, and this request needs {wanted:.0f} at once, for its prompt and max_tokens of each choice; "
                "ask for fewer",
                retry_after_s=None,
            )
        wait_s = bucket.wait_s(wanted)
        return TokensLimited(f"{may}; {wanted:.0f} are available in {wait_s:.1f} s", retry_after_s=wait_s)

    def _refused(self, limit: Limit, what: str, retry_after_s: float) -> RateLimited:
        self._on_refused(self._key.name, limit)
        return RateLimited(f"the key {self._key.name!r} {what}", retry_after_s=retry_after_s)

    def check(self) -> None:
        """Assert the invariants of this account."""
        assert self.num_open >= 0
        assert (self._own_reserved == 0) or self.num_open > 0
        assert 0 <= self._own_reserved <= self.reserved.num_tokens


def _left_in(bucket: TokenBucket) -> LimitStatus:
    return LimitStatus(round(bucket.capacity), max(0, math.floor(bucket.level)), bucket.full_in_s)
