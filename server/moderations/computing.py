"""moderate: computes the scores of the texts of one moderation, and counts them."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from engine.errors import InvalidRequest
from server.decisions.computing import decide
from server.decisions.metering import count_end
from server.generation.terms import RequestTerms
from server.keys.caller import current_caller
from server.metrics.request_record import current_record
from server.moderations.categories import Category, ModerationPrompt, category_scores_of
from server.served.model import ServedModel


@dataclass(frozen=True, slots=True)
class Moderated:
    """Scores of each text in the categories that the model was asked about, and the request's tokens."""

    scores: list[dict[Category, float]]
    num_tokens: int
    num_cached_tokens: int
    num_written_tokens: int  # to the prefix cache


async def moderate(model: ServedModel, prompts: Sequence[ModerationPrompt], terms: RequestTerms) -> Moderated:
    """Compute the texts one after the other. Cancellation ends it.

    Raises the errors of `decide`, and InvalidRequest for a text about which the model answers neither yes nor no.
    """
    _check_tokens(sum(each.prompt.num_tokens for each in prompts))
    scores = []
    num_tokens = num_cached_tokens = num_written_tokens = 0
    for number, each in enumerate(prompts):
        decided = await decide(model, each.decision, each.prompt, terms, is_first=number == 0, is_whole=False)
        masses = [found for found in decided.masses if found is not None]
        is_undecided = len(masses) < len(decided.masses)
        if is_undecided or number == len(prompts) - 1:
            count_end(model.metrics, current_record(), terms)
        if is_undecided:
            raise _undecided(each)
        scores.append(category_scores_of(each.findings, masses))
        num_tokens += decided.num_tokens
        num_cached_tokens += decided.num_cached_tokens
        num_written_tokens += decided.num_written_tokens
        # The request is being answered, so its other texts may start late.
        terms = dataclasses.replace(terms, queue_timeout_s=None)
    return Moderated(scores, num_tokens, num_cached_tokens, num_written_tokens)


def _check_tokens(num_tokens: int) -> None:
    """Raise RateLimited if the key's limits do not allow all texts now: each one reserves only its own tokens."""
    if (account := current_caller().account) is not None:
        account.settle(account.reserve(num_tokens, 0, is_open_ended=False), 0)


def _undecided(prompt: ModerationPrompt) -> InvalidRequest:
    path = prompt.decision.questions[0].path
    return InvalidRequest(
        f"{path} cannot be moderated by this model: the answers that it is offered have, for at least one question, "
        f"less than the probability {prompt.decision.min_mass:g} together; use another model, or a lower min_mass "
        "(--decision-min-mass)",
        param=path,
        code="model_not_suited",
    )
