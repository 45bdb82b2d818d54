"""How tenants share a step's tokens for prompts: whoever had fewest lately comes first, until all are level.

Equal parts of each step would do for a lasting load. But a tenant's single short prompt, beside another's that never
end, would take twice the steps that it takes alone. So what counts are the steps before too: a tenant that had no
prompts for a while gets whole steps at first, and equal parts from then on.

    level       a |████████████████         what each had lately, over its weight
                b |██▒▒▒▒▒▒▒▒▒▒             this step's tokens fill the lowest first
"""

from collections import abc

from engine.scheduling.fairness.account import TenantAccount

_LEAST = 1e-9  # tokens


def fill_levels(needs: abc.Mapping[TenantAccount, float], budget: float) -> dict[TenantAccount, float]:
    """The part of each tenant, at most what it needs; together they are the budget, or all needs if that is less."""
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
