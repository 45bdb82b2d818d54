"""grader_run: the grade of one sample, in OpenAI's format."""

from collections.abc import Mapping
from typing import Any

from engine.command_io.finetuning.graders.definitions import Grader, needed_models
from engine.command_io.finetuning.graders.faults import FaultKind
from engine.command_io.finetuning.graders.grading import Grade
from server.finetuning.scoring import TokenUsage
from server.schemas.grader_answers import GraderErrors, GraderMetadata, GraderRun, ModelTokenUsage


def grader_run(grader: Grader, grade: Grade, usages: Mapping[str, TokenUsage], execution_time_s: float) -> GraderRun:
    """Return the grade of one sample. usages: by the model that graded."""
    models = needed_models(grader)
    total = sum(usage.total_tokens for usage in usages.values())
    return GraderRun(
        reward=grade.reward,
        metadata=GraderMetadata(
            name=grader.name,
            type=grader.type.value,
            errors=_errors(grade),
            execution_time=execution_time_s,
            scores=grade.sub_rewards,
            token_usage=total if models else None,
            sampled_model_name=models[0] if len(models) == 1 else None,
        ),
        sub_rewards=grade.sub_rewards,
        model_grader_token_usage_per_model={name: _shown(usage) for name, usage in usages.items()},
    )


def _errors(grade: Grade) -> GraderErrors:
    faults = grade.faults
    details = next((fault.message for fault in faults if fault.kind is FaultKind.MODEL_SERVER), None)
    flags: dict[str, Any] = {fault.kind.value: True for fault in faults}
    return GraderErrors(**flags, model_grader_server_error_details=details)


def _shown(usage: TokenUsage) -> ModelTokenUsage:
    return ModelTokenUsage(
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
        cached_tokens=usage.cached_tokens,
        total_tokens=usage.total_tokens,
    )
