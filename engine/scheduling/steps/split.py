"""The division of a step's tokens between the sequences that could use them.

First come sequences that generate: one token each, and their drafts. The rest is for prompts, by service class; within
a class tenants share it (`fill_levels`), and a tenant's prompts follow one another in the order of service. But a
prompt that does not fit in this step leaves up to half of the tokens to prompts behind it that are at most half as
long: these end soon and delay the longer prompt little.

The budget stands for time: its unit is a token at the beginning of a prompt, and a token far into a prompt costs
several units. Each prompt in a step also costs one reading of its earlier context, so long prompts take turns rather
than share every step. If even one token of the next prompt costs more than is left, it is computed all the same;
otherwise that prompt would wait until no sequence generates. The other prompts then share half of the budget.
"""

from bisect import insort
from collections import abc
from itertools import groupby
from typing import NamedTuple

from engine.scheduling.fairness.account import TenantAccount
from engine.scheduling.sequence import Order, Sequence
from engine.scheduling.steps.cost import PromptCost

_LEAST = 1e-9  # tokens; less is nothing
_ROUNDING = 1e-6


class Demand(NamedTuple):
    """The tokens that a running sequence, or one about to be admitted, could compute in one step."""

    sequence: Sequence
    num_tokens: int  # most tokens in this step
    num_pending: int  # all tokens still to compute
    cost: float = 1.0  # cost of each token, relative to a token at the beginning of a prompt
    context_cost: float = 0.0  # cost of reading the earlier context, once for all tokens

    @property
    def is_prompt(self) -> bool:
        """Whether a token of the prompt, or more than one that a preemption lost, is still to be computed."""
        sequence = self.sequence
        num_computed = sequence.num_with_draft - self.num_pending
        return sequence.num_prompt > num_computed or sequence.num_computed_at_preemption - num_computed > 1

    def price(self, num_tokens: int) -> float:
        """Return the cost of `num_tokens` tokens. The unit is one token at the beginning of a prompt."""
        return num_tokens * self.cost + self.context_cost if num_tokens else 0.0

    def num_affordable(self, num_tokens: int, budget: float) -> int:
        """Return how many tokens the budget pays for beyond the `num_tokens` already granted, up to the demand."""
        if num_tokens == 0:
            budget -= self.context_cost
        return max(0, min(self.num_tokens - num_tokens, int(budget / self.cost + _ROUNDING)))

    @property
    def precedence(self) -> tuple[int, int]:
        """Rank of the service class, and priority. A prompt leaves tokens only to prompts with the same precedence."""
        return self.sequence.order[:2]


class StepSplit:
    """Divides a step's budget between demands, which are kept in the order of service."""

    def __init__(
        self,
        running: abc.Iterable[Sequence],
        budget: int,
        *,
        threshold: int,
        cost: abc.Callable[[int], PromptCost] = lambda _: PromptCost(),
    ) -> None:
        """threshold: maximum prompt tokens of one sequence in a step; 0: no limit. cost: returns the cost of prompt
        tokens at a position."""
        self._threshold = threshold
        self._cost = cost
        self._budget = budget
        self.demands = [  # a short way for sequences that generate: this runs for every sequence of every step
            Demand(each, 1, 1) if (num_pending := each.num_pending) == 1 else self.demand(each, num_pending)
            for each in running
        ]
        self._num_wanted = sum([demand.num_tokens * demand.cost + demand.context_cost for demand in self.demands])

    def demand(self, sequence: Sequence, num_pending: int) -> Demand:
        """Return a sequence's demand. num_pending: uncomputed tokens; if the sequence waits, the tokens after its
        cached prefix."""
        demand = Demand(sequence, num_pending, num_pending)
        if not demand.is_prompt:
            return demand
        num_tokens = min(num_pending, self._threshold or num_pending)
        cost = self._cost(sequence.num_with_draft - num_pending)
        # Of longer prompts the row is a small part, and counting it would cut chunks that are whole tiles.
        context_cost = cost.context + cost.row if num_pending == 1 else cost.context
        return Demand(sequence, num_tokens, num_pending, cost.token, context_cost)

    def add(self, demand: Demand) -> None:
        insort(self.demands, demand, key=_order)
        self._num_wanted += demand.price(demand.num_tokens)

    def drop(self, sequence: Sequence) -> None:
        """Remove the demand of a sequence that was preempted."""
        self.demands = [demand for demand in self.demands if demand.sequence is not sequence]
        self._num_wanted = sum(demand.price(demand.num_tokens) for demand in self.demands)

    def tokens(self) -> dict[Sequence, int]:
        """Return the number of tokens that each sequence gets in this step."""
        if self._num_wanted <= self._budget:
            return {demand.sequence: demand.num_tokens for demand in self.demands}
        return split_step(self.demands, self._budget)

    def tokens_if_added(self, demand: Demand) -> int:
        """Return the number of tokens that `demand` would get if it were added."""
        if self._num_wanted + demand.price(demand.num_tokens) <= self._budget:
            return demand.num_tokens
        return split_step(sorted([*self.demands, demand], key=_order), self._budget)[demand.sequence]

    def longest_pending(self, account: TenantAccount) -> int:
        """Return the largest number of pending tokens among a tenant's demands."""
        return max((each.num_pending for each in self.demands if each.sequence.account is account), default=0)


def _order(demand: Demand) -> Order:
    return demand.sequence.order


def split_step(demands: abc.Sequence[Demand], budget: float) -> dict[Sequence, int]:
    """Return the number of tokens of each sequence. demands: in the order of service; the first gets at least one."""
    tokens: dict[Sequence, int] = {}
    for _, group in groupby(demands, lambda demand: demand.sequence.service.yields):
        budget = _split_group(list(group), budget, tokens)
    return tokens


def _split_group(demands: list[Demand], budget: float, tokens: dict[Sequence, int]) -> float:
    """Divide the budget, first between generating sequences; fill in `tokens` and return the rest of the budget."""
    first = demands[0] if demands[0].is_prompt and budget > 0 else None
    num_first = min(1.0, budget) if first else 0.0
    budget -= num_first  # reserved for the first in the order
    for demand in demands:
        if not demand.is_prompt:
            tokens[demand.sequence] = min(demand.num_tokens, int(budget))
            budget -= tokens[demand.sequence]
    budget += num_first
    prompts = [demand for demand in demands if demand.is_prompt]
    for _, of_class in groupby(prompts, lambda demand: demand.sequence.service.rank):
        budget = _split_between_tenants(list(of_class), budget, tokens, first)
        first = None
    return budget


def _split_between_tenants(
    prompts: list[Demand], budget: float, tokens: dict[Sequence, int], first: Demand | None
) -> float:
    """Divide the budget between the prompts of one service class; fill in `tokens` and return the rest of the budget.
    first: a prompt that gets at least one token."""
    next_prompt = first or min(prompts, key=lambda demand: demand.sequence.account.prompt_level)
    if next_prompt.num_tokens > 0 and 1 <= budget < next_prompt.price(1):
        _split_beside_costly(next_prompt, prompts, budget - 1, tokens)
        return 0.0
    if first is None:
        return _split_shares(prompts, budget, tokens)
    prompts = [first._replace(num_tokens=first.num_tokens - 1, context_cost=0.0), *prompts[1:]]
    budget = _split_shares(prompts, max(0.0, budget - first.price(1)), tokens)
    tokens[first.sequence] += 1
    return budget


def _split_beside_costly(costly: Demand, prompts: list[Demand], budget: float, tokens: dict[Sequence, int]) -> None:
    """Give one token to `costly`, whose next token alone exceeds the budget, and half of the budget to other tenants'
    prompts and to much shorter ones, which `costly` would otherwise block for as many steps as it has tokens. At least
    one of those prompts gets a token if the budget has one."""
    tokens.update((demand.sequence, 0) for demand in prompts)
    tokens[costly.sequence] = 1
    others = [
        each for each in prompts if each.sequence.account is not costly.sequence.account or _may_pass(each, costly)
    ]
    if others:
        _split_shares(others, budget / 2, tokens)
        if budget >= 1 and not any(tokens[each.sequence] for each in others):
            tokens[min(others, key=lambda demand: demand.sequence.account.prompt_level).sequence] = 1


def _split_shares(prompts: list[Demand], budget: float, tokens: dict[Sequence, int]) -> float:
    """Divide the budget between tenants and then their prompts; fill in `tokens` and return the rest of the budget."""
    by_tenant: dict[TenantAccount, list[Demand]] = {}
    for demand in prompts:
        by_tenant.setdefault(demand.sequence.account, []).append(demand)
    needs = {account: sum(each.price(each.num_tokens) for each in own) for account, own in by_tenant.items()}
    shares = fill_levels(needs, budget) if len(needs) > 1 else dict.fromkeys(needs, budget)
    for account, own in by_tenant.items():
        budget -= _split_in_order(own, shares[account], tokens)
    # The rest from rounding, and parts that are too small for a token, go to the tenants with the fewest tokens lately.
    for demand in sorted(prompts, key=lambda demand: demand.sequence.account.prompt_level):
        num_before = tokens[demand.sequence]
        tokens[demand.sequence] += demand.num_affordable(num_before, budget)
        budget -= demand.price(tokens[demand.sequence]) - demand.price(num_before)
    return budget


def _split_in_order(prompts: list[Demand], budget: float, tokens: dict[Sequence, int]) -> float:
    """Divide a tenant's share between its prompts in the order of service; fill in `tokens` and return their cost."""
    spent = 0.0
    for index, first in enumerate(prompts):
        left = budget - spent
        if first.price(first.num_tokens) > left + _ROUNDING:
            rest = prompts[index + 1 :]
            tokens.update((demand.sequence, 0) for demand in rest)
            shorter = [demand for demand in rest if _may_pass(demand, first)]
            for_shorter = left / 2 if first.num_affordable(0, left / 2) else max(0.0, left - first.price(1))
            on_shorter = _split_in_order(shorter, for_shorter, tokens)
            tokens[first.sequence] = first.num_affordable(0, left - on_shorter)
            return spent + on_shorter + first.price(tokens[first.sequence])
        tokens[first.sequence] = first.num_tokens
        spent += first.price(first.num_tokens)
    return spent


def _may_pass(demand: Demand, other: Demand) -> bool:
    """Whether a prompt may get part of a step although a longer prompt of its tenant comes before it."""
    return is_much_shorter(demand.num_pending, other.num_pending) and demand.precedence == other.precedence


def is_much_shorter(num_pending: int, of_other: int) -> bool:
    """Whether a prompt is short enough to get part of a step before a longer prompt ends: at most half as long.

    num_pending: the short prompt's pending tokens. of_other: the longer prompt's.
    """
    return 2 * num_pending <= of_other


def fill_levels(needs: abc.Mapping[TenantAccount, float], budget: float) -> dict[TenantAccount, float]:
    """Return each tenant's share of the budget, at most what it needs. The shares add up to the budget, or to all needs
    if that is less.

    Tenants with the fewest prompt tokens lately come first, until all are level. Equal parts of each step would suffice
    for a lasting load. But then a tenant's single short prompt, beside prompts of another that never end, would take
    twice the steps that it takes alone. So earlier steps count too: a tenant that had no prompts for a while gets whole
    steps at first, and equal parts from then on.

        level       a |████████████████         tokens of earlier steps, over the tenant's weight
                    b |██▒▒▒▒▒▒▒▒▒▒             this step's tokens fill the lowest level first
    """
    levels = {account: account.prompt_level for account in needs}
    left = {account: need for account, need in needs.items() if need}
    num_left = min(budget, sum(needs.values()))
    while left and num_left > _LEAST:
        low = min(levels[account] for account in left)
        lowest = [account for account in left if levels[account] <= low]
        weight = sum(account.weight for account in lowest)
        rise = min(num_left / weight, *(left[account] / account.weight for account in lowest))
        if higher := [levels[account] for account in left if levels[account] > low]:
            rise = min(rise, min(higher) - low)
        for account in lowest:
            levels[account] = low + rise
            left[account] -= rise * account.weight
            if left[account] <= _LEAST:
                del left[account]
        num_left -= rise * weight
    return {account: need - left.get(account, 0.0) for account, need in needs.items()}
