"""Tenants: the accounts of all tenants, one for each service class, and the charges of sequences to them."""

from collections import abc, defaultdict

from engine.scheduling.fairness.account import TenantAccount
from engine.scheduling.plan import StepPlan
from engine.scheduling.sequence import Sequence
from engine.scheduling.steps.split import Demand


class Tenants:
    """Accounts by service class, so that a tenant's background requests take nothing from its clients' requests.

    Accounts are kept as long as there is any sequence: a tenant that comes back is known by the service that it had.
    """

    def __init__(self) -> None:
        self._accounts: dict[tuple[int, str], TenantAccount] = {}
        self._had_prompts: set[TenantAccount] = set()  # accounts with prompts in recent steps

    def account(self, sequence: Sequence) -> TenantAccount:
        name, weight = sequence.request.tenant, sequence.request.tenant_weight
        key = (sequence.service.rank, name)
        if (account := self._accounts.get(key)) is None:
            account = self._accounts[key] = TenantAccount(name)
        account.weight = weight
        return account

    def count_step(self, plan: StepPlan, demands: abc.Iterable[Demand]) -> None:
        """Count the prompt tokens of each tenant in a step. demands: of the step, for the cost of its tokens."""
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
        """Forget all accounts, when there is no sequence: no tenant waited for another."""
        self._accounts.clear()
        self._had_prompts.clear()


def charge_prompt(sequence: Sequence, num_tokens: int) -> None:
    """Charge the prompt of a sequence that is about to run: `num_tokens` of it are not cached.

    The prompt is charged as a whole, before it is computed, so that the next sequence to run can be another tenant's.
    Until the sequence is admitted a second call corrects the first; afterwards it is charged no more, however often it
    is preempted.
    """
    if sequence.num_cached is None:
        sequence.account.charge_prompt(num_tokens - sequence.num_charged)
        sequence.num_charged = num_tokens


def refund_uncomputed(sequence: Sequence) -> None:
    """Give back the charge for prompt tokens that were not computed before the sequence ended."""
    if sequence.num_output:
        return
    num_computed = max(sequence.num_computed, sequence.num_computed_at_preemption) - (sequence.num_cached or 0)
    num_uncomputed = sequence.num_charged - max(0, min(num_computed, sequence.num_charged))
    sequence.account.charge_prompt(-num_uncomputed)
    sequence.num_charged -= num_uncomputed
