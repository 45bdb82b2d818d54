"""How a step's tokens are divided between the sequences that could use them.

First come those that generate: one token each, and their drafts. What is left is for prompts, by service class; within
a class tenants share it by weight, and a tenant's prompts follow one another in the order of service. But a prompt that
takes longer than this step leaves up to half to those behind it that are at most half as long: they end soon, and it
ends little later.
"""

from bisect import insort
from collections import abc
from itertools import groupby
from typing import NamedTuple

from engine.scheduling.sequence import Order, Sequence
from engine.scheduling.tenant_account import TenantAccount


class Demand(NamedTuple):
    """What a running sequence, or one that is about to run, could compute in one step."""

    sequence: Sequence
    num_tokens: int  # of this step, at most
    num_pending: int  # in all

    @property
    def is_prompt(self) -> bool:
        """Whether more than one token of its prompt, or of what preemption lost, is not computed."""
        sequence = self.sequence
        num_computed = sequence.num_with_draft - self.num_pending
        return max(sequence.num_prompt, sequence.num_computed_at_preemption) - num_computed > 1

    @property
    def precedence(self) -> tuple[int, int]:
        """Nobody leaves tokens to those of a higher one."""
        return self.sequence.order[:2]


class StepSplit:
    """The demands of a step in the order of service, and what each gets of the budget."""

    def __init__(self, running: abc.Iterable[Sequence], budget: int, *, threshold: int) -> None:
        """threshold: most prompt tokens of one sequence in one step; 0 is no limit."""
        self._threshold = threshold
        self._budget = budget
        if threshold:
            self._demands = [self.demand(sequence, sequence.num_pending) for sequence in running]
        else:  # as above, in fewer calls: this runs for every sequence of every step
            self._demands = [Demand(each, (num_pending := each.num_pending), num_pending) for each in running]
        self._num_wanted = sum([demand.num_tokens for demand in self._demands])

    def demand(self, sequence: Sequence, num_pending: int) -> Demand:
        """num_pending: of a waiting sequence, the tokens after its cached prefix."""
        if self._threshold == 0 or sequence.draft:  # only a sequence whose prompt is computed has a draft
            return Demand(sequence, num_pending, num_pending)
        return Demand(sequence, min(num_pending, self._threshold), num_pending)

    @property
    def demands(self) -> abc.Sequence[Demand]:
        return self._demands

    def add(self, demand: Demand) -> None:
        insort(self._demands, demand, key=_order)
        self._num_wanted += demand.num_tokens

    def drop(self, sequence: Sequence) -> None:
        """Take out a sequence that was preempted."""
        self._demands = [demand for demand in self._demands if demand.sequence is not sequence]
        self._num_wanted = sum(demand.num_tokens for demand in self._demands)

    def tokens(self) -> dict[Sequence, int]:
        """Of each sequence."""
        if self._num_wanted <= self._budget:
            return {demand.sequence: demand.num_tokens for demand in self._demands}
        return split_step(self._demands, self._budget)

    def tokens_if_added(self, demand: Demand) -> int:
        """What one more would get."""
        if self._num_wanted + demand.num_tokens <= self._budget:
            return demand.num_tokens
        return split_step(sorted([*self._demands, demand], key=_order), self._budget)[demand.sequence]

    def longest_pending(self, account: TenantAccount) -> int:
        """Of a tenant's demands."""
        return max((each.num_pending for each in self._demands if each.sequence.account is account), default=0)


def _order(demand: Demand) -> Order:
    return demand.sequence.order


def split_step(demands: abc.Sequence[Demand], budget: int) -> dict[Sequence, int]:
    """The tokens of each sequence; demands are in the order of service. Whoever comes first gets a token at least."""
    tokens: dict[Sequence, int] = {}
    for _, group in groupby(demands, lambda demand: demand.sequence.service.yields):
        budget = _split_group(list(group), budget, tokens)
    return tokens


def _split_group(demands: list[Demand], budget: int, tokens: dict[Sequence, int]) -> int:
    """Fill in `tokens`; returns what is left of the budget."""
    prompts = [demand for demand in demands if demand.is_prompt]
    for_first = min(budget, 1) if demands[0].is_prompt else 0
    budget -= for_first
    for demand in demands:
        if not demand.is_prompt:
            tokens[demand.sequence] = min(demand.num_tokens, budget)
            budget -= tokens[demand.sequence]
    budget += for_first
    for _, of_class in groupby(prompts, lambda demand: demand.sequence.service.rank):
        budget = _split_between_tenants(list(of_class), budget, tokens)
    return budget


def _split_between_tenants(prompts: list[Demand], budget: int, tokens: dict[Sequence, int]) -> int:
    """By weight; what one does not need goes to the others (max-min fairness)."""
    by_tenant: dict[TenantAccount, list[Demand]] = {}
    for demand in prompts:
        by_tenant.setdefault(demand.sequence.account, []).append(demand)
    while by_tenant:
        weight = sum(account.weight for account in by_tenant)
        shares = {account: int(budget * account.weight / weight) for account in by_tenant}
        content = [
            account
            for account, demands in by_tenant.items()
            if len(by_tenant) == 1 or sum(demand.num_tokens for demand in demands) <= shares[account]
        ]
        if not content:  # all want more than their share; the first gets what rounding leaves
            content = list(by_tenant)
            shares[content[0]] += budget - sum(shares.values())
            for account in content:
                budget -= _split_in_order(by_tenant.pop(account), shares[account], tokens)
            return budget
        for account in content:
            budget -= _split_in_order(by_tenant.pop(account), budget, tokens)
    return budget


def _split_in_order(prompts: list[Demand], budget: int, tokens: dict[Sequence, int]) -> int:
    """Give one tenant's prompts their tokens; returns how many they got."""
    num_given = 0
    for index, first in enumerate(prompts):
        left = budget - num_given
        if first.num_tokens > left:
            rest = prompts[index + 1 :]
            tokens.update((demand.sequence, 0) for demand in rest)
            shorter = [
                demand
                for demand in rest
                if is_much_shorter(demand.num_pending, first.num_pending) and demand.precedence == first.precedence
            ]
            tokens[first.sequence] = left - _split_in_order(shorter, left // 2, tokens)
            return budget
        tokens[first.sequence] = first.num_tokens
        num_given += first.num_tokens
    return num_given


def is_much_shorter(num_pending: int, of_other: int) -> bool:
    """Whether a prompt is so short that the other, which comes before it, leaves it a part of the step."""
    return 2 * num_pending <= of_other
