"""TenantAccount: the service that a tenant has received in one service class, as a virtual token counter.

As in Sheng et al., "Fairness in Serving Large Language Models" (OSDI 2024), the counter is the number of tokens served,
with output tokens weighted twice, divided by the tenant's weight. Tokens from the prefix cache are free, since they
cost no computation, as in Cao et al., "Locality-aware Fair Scheduling in LLM Serving" (2025).
"""

from dataclasses import dataclass

_NO_TOKENS = 1e-6  # fewer count as none
_RECENT = 0.9  # weight of a step's prompt tokens one step later: some ten steps count in all
_PROMPT_COST, _OUTPUT_COST = 1.0, 2.0  # as in the paper: an output token takes a step, prompt tokens share one


@dataclass(slots=True, eq=False)
class TenantAccount:
    """A tenant's account in one service class. Invariant: `counter` >= `floor`, the level that it was last lifted to,
    so that refunds do not restore the credit of idle time."""

    name: str = ""
    weight: float = 1.0  # weight in the tenant's latest request
    counter: float = 0.0  # weighted tokens served, divided by `weight`
    floor: float = 0.0
    num_running: int = 0
    recent_prompt_tokens: float = 0.0  # prompt tokens of recent steps, by cost and decaying: see `count_step`

    @property
    def prompt_level(self) -> float:
        """Recent prompt tokens of the tenant, divided by its weight."""
        return self.recent_prompt_tokens / self.weight

    def charge_prompt(self, num_tokens: int) -> None:
        """Charge prompt tokens. num_tokens: negative for a refund."""
        self.counter = max(self.floor, self.counter + _PROMPT_COST * num_tokens / self.weight)

    def charge_output(self, num_tokens: int) -> None:
        self.counter += _OUTPUT_COST * num_tokens / self.weight

    def count_step(self, num_prompt_tokens: float) -> None:
        """Add a step's prompt tokens, weighted by their cost, to the decaying count of recent prompt tokens."""
        recent = _RECENT * self.recent_prompt_tokens + num_prompt_tokens
        self.recent_prompt_tokens = recent if recent > _NO_TOKENS else 0.0

    def lift(self, counter: float) -> None:
        """Raise the counter to `counter`, the level of the other tenants, so that idle time earns no credit."""
        if counter > self.counter:
            self.counter = self.floor = counter
