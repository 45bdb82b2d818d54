"""Tenants: the accounts of all tenants, one per service class, and how sequences are charged to them."""

from collections import abc, defaultdict

from engine.scheduling.fairness.account import TenantAccount
from engine.scheduling.plan import StepPlan
from engine.scheduling.sequence import Sequence
from engine.scheduling.steps.split import Demand


class Tenants:
    """Tenants' accounts. They are separate by service class, so that a tenant's background requests do not count
    against its interactive ones.

    Accounts are kept while the engine has any sequence, so a returning tenant keeps its record of service.
    """

    def __init__(self) -> None:
        self._accounts: dict[tuple[int, str], TenantAccount] = {}
        self._had_prompts: set[TenantAccount] = set()  # accounts with prompts in recent steps

    @property
    def num_accounts(self) -> int:
        return len(self._accounts)

    def account(self, sequence: Sequence) -> TenantAccount:
        name, weight = sequence.request.tenant, sequence.request.tenant_weight
        key = (sequence.service.rank, name)
        if (account := self._accounts.get(key)) is None:
            account = self._accounts[key] = TenantAccount(name)
        account.weight = weight
        return account

    def count_step(self, plan: StepPlan, demands: abc.Iterable[Demand]) -> None:
        """Add a step's prompt tokens to each tenant's recent count. demands: price the step's tokens."""
        if len(self._accounts) > 1:
            prices = {demand.sequence: demand.price for demand in demands}
            num_tokens: dict[TenantAccount, float] = defaultdict(float)
            for item in plan.items:
                if item.is_prompt:
                    num_tokens[item.sequence.account] += prices[item.sequence](item.num_new)
            self._had_prompts.update(num_tokens)
            for account in self._had_prompts:
                account.count_step(num_tokens[account])
            self._had_prompts = {account for account in self._had_prompts if account.recent_prompt_tokens}

    def clear(self) -> None:
        """Drop all accounts. Only when the engine has no sequence, and so no tenant waits for another."""
        self._accounts.clear()
        self._had_prompts.clear()


def charge_prompt(sequence: Sequence, num_tokens: int) -> None:
    """Charge the uncached prompt tokens of a sequence that will be admitted.

    The whole prompt is charged before it is computed, so that the next admitted sequence can be another tenant's.
    Before the sequence is admitted, another call replaces the charge; afterwards calls do nothing, even after a
    preemption.
    """
    if sequence.num_cached is None:
        sequence.account.charge_prompt(num_tokens - sequence.num_charged)
        sequence.num_charged = num_tokens


def refund_uncomputed(sequence: Sequence) -> None:
    """Refund the charge for prompt tokens of an ended sequence that were never computed."""
    if sequence.num_output:
        return
    num_computed = max(sequence.num_computed, sequence.num_computed_at_preemption) - (sequence.num_cached or 0)
    num_uncomputed = sequence.num_charged - max(0, min(num_computed, sequence.num_charged))
    sequence.account.charge_prompt(-num_uncomputed)
    sequence.num_charged -= num_uncomputed
