"""The response of POST /v1/moderations."""

from collections.abc import Mapping

from server.moderations.categories import Category
from server.moderations.computing import Moderated
from server.schemas.decisions_answers import DecisionInputDetails, DecisionUsage
from server.schemas.moderations import ModerationAnswer, ModerationResult
from server.served.model import ServedModel


def moderation_answer(answer_id: str, model: ServedModel, moderated: Moderated) -> ModerationAnswer:
    """Return the response, and count its results."""
    results = [moderation_result(scores, model.config.moderation_threshold) for scores in moderated.scores]
    for result in results:
        model.metrics.add("moderation_results_total", 1, "flagged" if result.flagged else "passed")
    details = DecisionInputDetails(moderated.num_cached_tokens, moderated.num_written_tokens)
    num_tokens = moderated.num_tokens
    usage = DecisionUsage(input_tokens=num_tokens, input_tokens_details=details, total_tokens=num_tokens)
    return ModerationAnswer(id=answer_id, model=model.name, results=results, usage=usage)


def moderation_result(scores: Mapping[Category, float], threshold: float) -> ModerationResult:
    """Return a text's result. scores: of the categories that the model was asked about."""
    categories = {category.value: scores.get(category, 0.0) >= threshold for category in Category}
    return ModerationResult(
        flagged=any(categories.values()),
        categories=categories,
        category_scores={category.value: scores.get(category, 0.0) for category in Category},
        category_applied_input_types={category.value: ["text"] if category in scores else [] for category in Category},
    )
