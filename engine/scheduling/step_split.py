"""How a step's tokens are divided between the sequences that could use them.

First come those that generate: one token each, and their drafts. What is left is for prompts, by service class; within
a class tenants share it (prompt_levels.py), and a tenant's prompts follow one another in the order of service. But a
prompt that takes longer than this step leaves up to half to those behind it that are at most half as long: they end
soon, and it ends little later.
"""

from bisect import insort
from collections import abc
from itertools import groupby
from typing import NamedTuple

from engine.scheduling.prompt_levels import fill_levels
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
    first = demands[0]
    for_first = min(budget, 1) if first.is_prompt else 0
    if for_first:
        prompts[0] = Demand(first.sequence, first.num_tokens - 1, first.num_pending)
        budget -= 1
    for demand in demands:
        if not demand.is_prompt:
            tokens[demand.sequence] = min(demand.num_tokens, budget)
            budget -= tokens[demand.sequence]
    for _, of_class in groupby(prompts, lambda demand: demand.sequence.service.rank):
        by_tenant: dict[TenantAccount, list[Demand]] = {}
        for demand in of_class:
            by_tenant.setdefault(demand.sequence.account, []).append(demand)
        needs = {account: sum(each.num_tokens for each in own) for account, own in by_tenant.items()}
        shares = fill_levels(needs, budget) if len(needs) > 1 else dict.fromkeys(needs, budget)
        for account, own in by_tenant.items():
            budget -= _split_in_order(own, shares[account], tokens)
    if for_first:
        tokens[first.sequence] += 1
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
