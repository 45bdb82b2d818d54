"""usage_of: the tokens that an answer's `usage` counts."""

from collections.abc import Sequence

from msgspec import UNSET, UnsetType

from server.generation.choice import Choice
from server.generation.params.params import GenerationParams
from server.schemas.answers import CompletionTokensDetails, PromptTokensDetails, Usage


def usage_of(params: GenerationParams, choices: Sequence[Choice], num_cached: int) -> Usage:
    """Tokens so far: each prompt counts once, each choice's output counts up to the end of its text.

    num_cached: tokens of the prompts that the prefix cache had.
    """
    prompt_tokens = sum(len(prompt.ids) for prompt in params.prompts)
    completion_tokens = sum(choice.num_tokens for choice in choices)
    return Usage(
        prompt_tokens,
        completion_tokens,
        prompt_tokens + completion_tokens,
        PromptTokensDetails(num_cached),
        _completion_details(params, choices),
    )


def _completion_details(params: GenerationParams, choices: Sequence[Choice]) -> CompletionTokensDetails | UnsetType:
    """Each choice has its own share of the prediction."""
    num_drafted = sum(choice.num_drafted for choice in choices)
    if not (params.plan.thought is not None or params.prediction_ids or num_drafted):
        return UNSET
    predicted = sum(choice.num_predicted for choice in choices)
    return CompletionTokensDetails(
        accepted_prediction_tokens=predicted,
        rejected_prediction_tokens=len(params.prediction_ids) * len(choices) - predicted,
        drafted_tokens=num_drafted,
        accepted_draft_tokens=sum(choice.num_draft_accepted for choice in choices),
        reasoning_tokens=sum(choice.num_reasoning for choice in choices),
    )
