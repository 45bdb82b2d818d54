"""Account: what a key has used of its limits."""

import enum
import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

from engine.wording import counted
from server.errors import BudgetSpent, RateLimited, TokensLimited
from server.keys.bucket import Held, TokenBucket
from server.keys.key import ApiKey
from server.keys.spending import Spending

# Reserved of an answer that may be as long as fits: few are, and a key's minute would go into the first of them.
OPEN_ENDED_TOKENS = 1024
_PLACE_RETRY_S = 1.0  # nobody knows when a running request ends


class Limit(enum.StrEnum):
    """What a key was refused for."""

    REQUESTS = "requests"
    TOKENS = "tokens"
    CONCURRENCY = "concurrency"
    BUDGET = "budget"


class Work:
    """One request's part of the account, from its start to its end."""

    __slots__ = ("held", "is_open", "reserved")

    def __init__(self, reserved: int, held: Held | None) -> None:
        self.reserved = reserved
        self.held = held
        self.is_open = True


@dataclass(slots=True)
class Reserved:
    """Tokens of a budget that open works reserve, of all accounts that share it."""

    num_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Left:
    """What may still be used of a limit, and the seconds until all of it may be again."""

    limit: int
    remaining: int
    reset_s: float


class Account:
    """Outlives changes of its key. For one event loop.

    Invariants: `num_open` works are open, and `_own_reserved` is the sum of what they reserve; it is a part of
    `reserved`.
    """

    def __init__(
        self,
        key: ApiKey,
        spending: Spending,
        *,
        on_refused: Callable[[str, Limit], None] = lambda _name, _limit: None,
        clock: Callable[[], float] = time.monotonic,
        reserved: Reserved | None = None,
    ) -> None:
        """on_refused is told the key's name and the limit. clock: seconds, never going back. reserved: of another
        account of the same key, which shares the budget."""
        self.num_open = 0
        self.requests: TokenBucket | None = None
        self.tokens: TokenBucket | None = None
        self._key = key
        self._spending = spending
        self._on_refused = on_refused
        self._clock = clock
        self.reserved = reserved or Reserved()
        self._own_reserved = 0
        self.change(key)

    def change(self, key: ApiKey) -> None:
        """Take the limits of another version of the key; what was used stays used."""
        self._key = key
        self.requests = self._bucket(self.requests, key.requests_per_minute)
        self.tokens = self._bucket(self.tokens, key.tokens_per_minute)

    def _bucket(self, bucket: TokenBucket | None, per_minute: int | None) -> TokenBucket | None:
        if per_minute is None or bucket is None:
            return None if per_minute is None else TokenBucket(per_minute, self._clock)
        bucket.change_rate(per_minute)
        return bucket

    def count_request(self) -> Held | None:
        """Count one, which `end_request` is to be told the end of. Raises RateLimited."""
        if self.requests is None or (held := self.requests.hold(1)) is not None:
            return None if self.requests is None else held
        wait_s, per_minute = self.requests.wait_s(1), self._key.requests_per_minute
        assert per_minute is not None
        may = f"may send {counted(per_minute, 'request')} a minute"
        raise self._refused(Limit.REQUESTS, f"{may}; the next one is accepted in {wait_s:.1f} s", wait_s)

    def end_request(self, held: Held | None, *, is_counted: bool) -> None:
        """A request is over; is_counted: not one that the server itself had no room for."""
        if held is not None and self.requests is not None and held in self.requests:
            self.requests.settle(held, int(is_counted))

    def check_open(self) -> None:
        """Raise what `begin` would for the smallest request: before anything is spent on the real one."""
        self._check_places()
        self._check_budget(1)
        if self.tokens is not None and self.tokens.level < 1:
            raise self._tokens_refused(self.tokens, 1)

    def begin(self, prompt_tokens: int, output_tokens: int, *, is_open_ended: bool) -> Work:
        """Reserve a request's prompts and the most that its answers may have. is_open_ended: they may be as long as
        fits, which is not expected of them.

        Raises RateLimited, TokensLimited or BudgetSpent, and then nothing is reserved.
        """
        self._check_places()
        least = prompt_tokens + 1
        wanted = prompt_tokens + output_tokens
        if is_open_ended:
            wanted = max(least, min(wanted, self._most()))
        self._check_budget(wanted)
        held = None
        if self.tokens is not None:
            held = self.tokens.hold(wanted)
            if held is None:
                raise self._tokens_refused(self.tokens, wanted)
        self.num_open += 1
        self._own_reserved += wanted
        self.reserved.num_tokens += wanted
        return Work(wanted, held)

    def end(self, work: Work, used_tokens: int) -> None:
        """Settle a work; used_tokens of its prompts and answers. Does nothing the second time."""
        if not work.is_open:
            return
        work.is_open = False
        self.num_open -= 1
        self._own_reserved -= work.reserved
        self.reserved.num_tokens -= work.reserved
        self._spending.add(self._key.name, used_tokens)
        if work.held is not None and self.tokens is not None and work.held in self.tokens:
            self.tokens.settle(work.held, used_tokens)

    @property
    def budget_left(self) -> int | None:
        """Tokens of the present period that are neither used nor reserved; None without a budget."""
        budget = self._key.budget_tokens
        if budget is None:
            return None
        return budget - self._spending.spent(self._key.name, self._key.budget_period) - self.reserved.num_tokens

    @property
    def requests_left(self) -> Left | None:
        """None where requests have no limit."""
        return None if self.requests is None else _left_in(self.requests)

    @property
    def tokens_left(self) -> Left | None:
        """Of the rate or the budget, whichever has less, or nothing for longer; None without both."""
        parts = [] if self.tokens is None else [_left_in(self.tokens)]
        if (left := self.budget_left) is not None and (budget := self._key.budget_tokens) is not None:
            parts.append(Left(budget, max(0, left), self._spending.seconds_left(self._key.budget_period)))
        return min(parts, key=lambda part: (part.remaining, -part.reset_s), default=None)

    def _most(self) -> int:
        """More than this no request could reserve, however long it waits."""
        limits = (self._key.tokens_per_minute, self.budget_left)
        return min((limit for limit in limits if limit is not None), default=sys.maxsize)

    def _check_places(self) -> None:
        limit = self._key.max_concurrency
        if limit is not None and self.num_open >= limit:
            may = f"may have {counted(limit, 'request')} at a time"
            raise self._refused(Limit.CONCURRENCY, f"{may}; wait until one has ended", _PLACE_RETRY_S)

    def _check_budget(self, wanted: int) -> None:
        left, period = self.budget_left, self._key.budget_period
        if left is None or wanted <= left:
            return
        self._on_refused(self._key.name, Limit.BUDGET)
        ends = self._spending.ends(period)
        asked = ";" if wanted <= 1 else f", and this request may use {wanted}; ask for fewer, or"
        raise BudgetSpent(
            f"the key {self._key.name!r} has {max(0, left)} of its {self._key.budget_tokens} tokens a {period} left"
            f"{asked} wait until {ends:%Y-%m-%dT%H:%M:%SZ}",
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
        """Assert the invariants that are the account's own."""
        assert self.num_open >= 0
        assert (self._own_reserved == 0) or self.num_open > 0
        assert 0 <= self._own_reserved <= self.reserved.num_tokens


def _left_in(bucket: TokenBucket) -> Left:
    return Left(round(bucket.capacity), max(0, math.floor(bucket.level)), bucket.full_in_s)
