"""DraftCosts: how good drafts must be to save time, from the cost of steps that verify them."""

import msgspec

from engine.simulation.hardware import SimulatedModel

NUM_DRAFT = 4  # tokens that a draft proposes


class DraftCosts(msgspec.Struct, frozen=True):
    """Steps of decoding with drafts of `num_draft` tokens, in which `num_sequences` verify one each.

    Drafts save time if a step gives more tokens than `break_even_tokens`, which is so if each drafted token is accepted
    with more than `break_even_acceptance`; None: not even full acceptance is enough. The time of making drafts is not
    counted: prompt lookup takes almost none, a draft model its own steps.
    """

    num_draft: int
    num_sequences: int
    step_s: float
    draft_step_s: float
    break_even_tokens: float
    break_even_acceptance: float | None


def plan_drafts(model: SimulatedModel, context: int, num_sequences: int, num_draft: int = NUM_DRAFT) -> DraftCosts:
    """Compare decode steps with and without drafts. context: tokens before each sequence."""
    plain = next(model.work.decode_demands([context] * num_sequences))
    rows = 1 + num_draft
    drafted = plain._replace(
        num_rows=plain.num_rows * rows,
        num_logits=plain.num_logits * rows,
        attention_flops=plain.attention_flops * rows,
    )
    times = model.times()
    step_s, draft_step_s = times.step_s(plain), times.step_s(drafted)
    needed = draft_step_s / step_s if step_s else 1.0
    return DraftCosts(num_draft, num_sequences, step_s, draft_step_s, needed, _acceptance_for(needed, num_draft))


def _acceptance_for(tokens: float, num_draft: int) -> float | None:
    """Return the acceptance of each token at which a step gives `tokens` tokens; None above 1 + num_draft."""
    if tokens > 1 + num_draft:
        return None
    low, high = 0.0, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        gives = sum(middle**accepted for accepted in range(num_draft + 1))
        low, high = (middle, high) if gives < tokens else (low, middle)
    return high
