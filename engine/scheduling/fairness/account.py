"""TenantAccount: the service that one tenant had in one service class, as a virtual token counter.

The counters are from Sheng et al., "Fairness in Serving Large Language Models" (OSDI 2024): tokens served, outputs
weighted twice as much as inputs, divided by the tenant's share. Tokens from the prefix cache are free, since they cost
no computing, as in Cao et al., "Locality-aware Fair Scheduling in LLM Serving" (2025).
"""

from dataclasses import dataclass

_NO_TOKENS = 1e-6  # fewer count as none
_RECENT = 0.9  # weight of a step's prompt tokens one step later: some ten steps count in all
_PROMPT_COST, _OUTPUT_COST = 1.0, 2.0  # as in the paper: an output token takes a step, prompt tokens share one


@dataclass(slots=True, eq=False)
class TenantAccount:
    """A tenant's account. Invariant: `counter` >= `floor`, which the last lift set: a refund restores no credit that a
    lift removed."""

    name: str = ""
    weight: float = 1.0  # of the tenant's latest request
    counter: float = 0.0  # weighted tokens over `weight`
    floor: float = 0.0
    num_running: int = 0
    recent_prompt_tokens: float = 0.0  # of recent steps, by their cost and with decaying weights; see `count_step`

    @property
    def prompt_level(self) -> float:
        """Prompt tokens that the tenant had lately, over its weight."""
        return self.recent_prompt_tokens / self.weight

    def charge_prompt(self, num_tokens: int) -> None:
        """Add prompt tokens to the counter. num_tokens: negative for a refund."""
        self.counter = max(self.floor, self.counter + _PROMPT_COST * num_tokens / self.weight)

    def charge_output(self, num_tokens: int) -> None:
        self.counter += _OUTPUT_COST * num_tokens / self.weight

    def count_step(self, num_prompt_tokens: float) -> None:
        """Count the prompt tokens of a step; a token far into a prompt counts for several."""
        recent = _RECENT * self.recent_prompt_tokens + num_prompt_tokens
        self.recent_prompt_tokens = recent if recent > _NO_TOKENS else 0.0

    def lift(self, counter: float) -> None:
        """Remove the credit of an idle time, in which other tenants were served up to `counter`."""
        if counter > self.counter:
            self.counter = self.floor = counter
