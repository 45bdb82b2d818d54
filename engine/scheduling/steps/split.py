"""How a step's tokens are divided between the sequences that could use them.

First come those that generate: one token each, and their drafts. What is left is for prompts, by service class; within
a class tenants share it (prompt_levels.py), and a tenant's prompts follow one another in the order of service. But a
prompt that takes longer than this step leaves up to half to those behind it that are at most half as long: they end
soon, and it ends little later. What is divided is time: a token far into a prompt costs as much as several at its
beginning, and the budget is in tokens at the beginning. What is before a prompt's tokens is read once for all of them
that a step computes, so a step has parts of few far prompts, in turns. Where one token costs more than all that is left
for prompts, it is computed all the same, if its prompt is the next one: else that would wait until nobody generates.
The others have half of a step beside it.
"""

from bisect import insort
from collections import abc
from itertools import groupby
from typing import NamedTuple

from engine.scheduling.fairness.account import TenantAccount
from engine.scheduling.sequence import Order, Sequence
from engine.scheduling.steps.cost import PromptCost
from engine.scheduling.steps.prompt_levels import fill_levels

_ROUNDING = 1e-6


class Demand(NamedTuple):
    """What a running sequence, or one that is about to run, could compute in one step."""

    sequence: Sequence
    num_tokens: int  # of this step, at most
    num_pending: int  # in all
    cost: float = 1.0  # of a token, relative to one at a prompt's beginning
    entry_cost: float = 0.0  # of any tokens at all, beside that of each

    @property
    def is_prompt(self) -> bool:
        """Whether more than one token of its prompt, or of what preemption lost, is not computed."""
        sequence = self.sequence
        num_computed = sequence.num_with_draft - self.num_pending
        return max(sequence.num_prompt, sequence.num_computed_at_preemption) - num_computed > 1

    def price(self, num_tokens: int) -> float:
        """What `num_tokens` of it cost."""
        return num_tokens * self.cost + self.entry_cost if num_tokens else 0.0

    def num_more(self, num_tokens: int, budget: float) -> int:
        """How many tokens a budget pays for beside the `num_tokens` that it has; at most what it could use."""
        if num_tokens == 0:
            budget -= self.entry_cost
        return max(0, min(self.num_tokens - num_tokens, int(budget / self.cost + _ROUNDING)))

    @property
    def precedence(self) -> tuple[int, int]:
        """Nobody leaves tokens to those of a higher one."""
        return self.sequence.order[:2]


class StepSplit:
    """The demands of a step in the order of service, and what each gets of the budget."""

    def __init__(
        self,
        running: abc.Iterable[Sequence],
        budget: int,
        *,
        threshold: int,
        cost: abc.Callable[[int], PromptCost] = lambda _: PromptCost(),
    ) -> None:
        """threshold: most prompt tokens of one sequence in one step; 0 is no limit. cost: at a position."""
        self._threshold = threshold
        self._cost = cost
        self._budget = budget
        self._demands = [  # what generates is told apart here: this runs for every sequence of every step
            Demand(each, 1, 1) if (num_pending := each.num_pending) == 1 else self.demand(each, num_pending)
            for each in running
        ]
        self._num_wanted = sum([demand.num_tokens * demand.cost + demand.entry_cost for demand in self._demands])

    def demand(self, sequence: Sequence, num_pending: int) -> Demand:
        """num_pending: of a waiting sequence, the tokens after its cached prefix."""
        demand = Demand(sequence, num_pending, num_pending)
        if not demand.is_prompt:
            return demand
        num_tokens = min(num_pending, self._threshold or num_pending)
        return Demand(sequence, num_tokens, num_pending, *self._cost(sequence.num_with_draft - num_pending))

    @property
    def demands(self) -> abc.Sequence[Demand]:
        return self._demands

    def add(self, demand: Demand) -> None:
        insort(self._demands, demand, key=_order)
        self._num_wanted += demand.price(demand.num_tokens)

    def drop(self, sequence: Sequence) -> None:
        """Take out a sequence that was preempted."""
        self._demands = [demand for demand in self._demands if demand.sequence is not sequence]
        self._num_wanted = sum(demand.price(demand.num_tokens) for demand in self._demands)

    def tokens(self) -> dict[Sequence, int]:
        """Of each sequence."""
        if self._num_wanted <= self._budget:
            return {demand.sequence: demand.num_tokens for demand in self._demands}
        return split_step(self._demands, self._budget)

    def tokens_if_added(self, demand: Demand) -> int:
        """What one more would get."""
        if self._num_wanted + demand.price(demand.num_tokens) <= self._budget:
            return demand.num_tokens
        return split_step(sorted([*self._demands, demand], key=_order), self._budget)[demand.sequence]

    def longest_pending(self, account: TenantAccount) -> int:
        """Of a tenant's demands."""
        return max((each.num_pending for each in self._demands if each.sequence.account is account), default=0)


def _order(demand: Demand) -> Order:
    return demand.sequence.order


def split_step(demands: abc.Sequence[Demand], budget: float) -> dict[Sequence, int]:
    """The tokens of each sequence; demands are in the order of service. Whoever comes first gets a token at least."""
    tokens: dict[Sequence, int] = {}
    for _, group in groupby(demands, lambda demand: demand.sequence.service.yields):
        budget = _split_group(list(group), budget, tokens)
    return tokens


def _split_group(demands: list[Demand], budget: float, tokens: dict[Sequence, int]) -> float:
    """Fill in `tokens`; returns what is left of the budget."""
    first = demands[0] if demands[0].is_prompt and budget > 0 else None
    num_first = min(1.0, budget) if first else 0.0
    budget -= num_first  # it is for the first in the order, whoever else wants it
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
    """As `_split_group`, for the prompts of one class. first: of them, which gets a token in any case."""
    next_prompt = first or min(prompts, key=lambda demand: demand.sequence.account.prompt_level)
    if next_prompt.num_tokens > 0 and 1 <= budget < next_prompt.price(1):
        _split_beside_dear(next_prompt, prompts, budget - 1, tokens)
        return 0.0
    if first is None:
        return _split_shares(prompts, budget, tokens)
    prompts = [first._replace(num_tokens=first.num_tokens - 1, entry_cost=0.0), *prompts[1:]]
    budget = _split_shares(prompts, max(0.0, budget - first.price(1)), tokens)
    tokens[first.sequence] += 1
    return budget


def _split_beside_dear(dear: Demand, prompts: list[Demand], budget: float, tokens: dict[Sequence, int]) -> None:
    """One token for a prompt that has no more than that of a step, and half of the budget for those that do not wait
    for its end: else it would hold them up for as many steps as it has tokens. One of them gets on in any case."""
    tokens.update((demand.sequence, 0) for demand in prompts)
    tokens[dear.sequence] = 1
    others = [each for each in prompts if each.sequence.account is not dear.sequence.account or _is_let_by(each, dear)]
    if others:
        _split_shares(others, budget / 2, tokens)
        if budget >= 1 and not any(tokens[each.sequence] for each in others):
            tokens[min(others, key=lambda demand: demand.sequence.account.prompt_level).sequence] = 1


def _split_shares(prompts: list[Demand], budget: float, tokens: dict[Sequence, int]) -> float:
    """Divide the budget between tenants; returns what is left of it."""
    by_tenant: dict[TenantAccount, list[Demand]] = {}
    for demand in prompts:
        by_tenant.setdefault(demand.sequence.account, []).append(demand)
    needs = {account: sum(each.price(each.num_tokens) for each in own) for account, own in by_tenant.items()}
    shares = fill_levels(needs, budget) if len(needs) > 1 else dict.fromkeys(needs, budget)
    for account, own in by_tenant.items():
        budget -= _split_in_order(own, shares[account], tokens)
    # What rounding has left, and parts that are too small for a token: it is the turn of who had least.
    for demand in sorted(prompts, key=lambda demand: demand.sequence.account.prompt_level):
        num_before = tokens[demand.sequence]
        tokens[demand.sequence] += demand.num_more(num_before, budget)
        budget -= demand.price(tokens[demand.sequence]) - demand.price(num_before)
    return budget


def _split_in_order(prompts: list[Demand], budget: float, tokens: dict[Sequence, int]) -> float:
    """Give one tenant's prompts their tokens; returns how much of the budget these cost."""
    spent = 0.0
    for index, first in enumerate(prompts):
        left = budget - spent
        if first.price(first.num_tokens) > left + _ROUNDING:
            rest = prompts[index + 1 :]
            tokens.update((demand.sequence, 0) for demand in rest)
            shorter = [demand for demand in rest if _is_let_by(demand, first)]
            for_shorter = left / 2 if first.num_more(0, left / 2) else max(0.0, left - first.price(1))
            on_shorter = _split_in_order(shorter, for_shorter, tokens)
            tokens[first.sequence] = first.num_more(0, left - on_shorter)
            return spent + on_shorter + first.price(tokens[first.sequence])
        tokens[first.sequence] = first.num_tokens
        spent += first.price(first.num_tokens)
    return spent


def _is_let_by(demand: Demand, other: Demand) -> bool:
    """Whether another prompt of its tenant, which comes before it and takes longer than the step, leaves it a part."""
    return is_much_shorter(demand.num_pending, other.num_pending) and demand.precedence == other.precedence


def is_much_shorter(num_pending: int, of_other: int) -> bool:
    """Whether a prompt is so short that the other, which comes before it, leaves it a part of the step."""
    return 2 * num_pending <= of_other
