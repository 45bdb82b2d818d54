"""Tenants: the accounts of all tenants, one for each service class, and what a sequence is charged to its own."""

from collections import abc, defaultdict

from engine.scheduling.fairness.account import TenantAccount
from engine.scheduling.plan import StepPlan
from engine.scheduling.sequence import Sequence
from engine.scheduling.steps.split import Demand


class Tenants:
    """Accounts by service class, so that what a tenant has in the background takes nothing from what clients wait for.

    They are kept as long as there is any sequence: a tenant that comes back is known by what it was served.
    """

    def __init__(self) -> None:
        self._accounts: dict[tuple[int, str], TenantAccount] = {}
        self._had_prompts: set[TenantAccount] = set()  # lately

    def account(self, sequence: Sequence) -> TenantAccount:
        """The account of a sequence's tenant in its service class."""
        name, weight = sequence.request.tenant, sequence.request.tenant_weight
        key = (sequence.service.rank, name)
        if (account := self._accounts.get(key)) is None:
            account = self._accounts[key] = TenantAccount(name)
        account.weight = weight
        return account

    def pass_step(self, plan: StepPlan, demands: abc.Iterable[Demand]) -> None:
        """Count the prompt tokens that a step gives to each tenant, if there are several. demands: those of the step,
        which say what a token costs."""
        if len(self._accounts) > 1:
            prices = {demand.sequence: demand.price for demand in demands}
            num_tokens: dict[TenantAccount, float] = defaultdict(float)
            for item in plan.items:
                if item.is_prompt:
                    num_tokens[item.sequence.account] += prices[item.sequence](item.num_new)
            self._had_prompts.update(num_tokens)
            for account in self._had_prompts:
                account.pass_step(num_tokens[account])
            self._had_prompts = {account for account in self._had_prompts if account.recent_prompt_tokens}

    def clear(self) -> None:
        """There is no sequence any more, and nobody waited for what the others had."""
        self._accounts.clear()
        self._had_prompts.clear()


def charge_prompt(sequence: Sequence, num_tokens: int) -> None:
    """Charge the prompt of a sequence that is about to run: `num_tokens` of it are not cached.

    As a whole, before it is computed, so that the next to run can be of another tenant. Until the sequence is admitted
    a second call corrects the first; afterwards it is charged no more, however often it is preempted.
    """
    if sequence.num_cached is None:
        sequence.account.charge_prompt(num_tokens - sequence.num_charged)
        sequence.num_charged = num_tokens


def refund_uncomputed(sequence: Sequence) -> None:
    """Give back what a sequence was charged for prompt tokens that were not computed before it ended."""
    if sequence.num_output:
        return
    num_computed = max(sequence.num_computed, sequence.num_computed_at_preemption) - (sequence.num_cached or 0)
    num_uncomputed = sequence.num_charged - max(0, min(num_computed, sequence.num_charged))
    sequence.account.charge_prompt(-num_uncomputed)
    sequence.num_charged -= num_uncomputed
