"""The response of GET /v1/usage."""

from typing import Literal

import msgspec


class UsageBucket(msgspec.Struct, kw_only=True):
    """The token usage of one key in one period. Times are in Unix seconds."""

    key: str | None  # null for keys without a name, and for clients without a key
    start_time: int
    end_time: int
    requests: dict[str, int] = {}  # by outcome
    prompt_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    total_tokens: int = 0  # prompt and output


class BudgetState(msgspec.Struct, kw_only=True):
    """The token budget of a key in the current period, and how much of it is used."""

    key: str
    budget_tokens: int
    period: str
    used_tokens: int
    ends_at: int  # seconds since 1970


class UsageReport(msgspec.Struct, kw_only=True):
    object: Literal["list"] = "list"
    data: list[UsageBucket]
    budgets: list[BudgetState]
    has_more: bool = False
