"""What is answered when a grader is checked or run, in OpenAI's form."""

from typing import Any

import msgspec


class GraderValidation(msgspec.Struct, frozen=True):
    """The grader, with the names that were left out."""

    grader: dict[str, Any]


class GraderErrors(msgspec.Struct, frozen=True, kw_only=True):
    """OpenAI's flags. Nothing here runs Python, or cuts what it grades."""

    formula_parse_error: bool = False
    sample_parse_error: bool = False
    truncated_observation_error: bool = False
    unresponsive_reward_error: bool = False
    invalid_variable_error: bool = False
    other_error: bool = False
    python_grader_server_error: bool = False
    python_grader_server_error_type: str | None = None
    python_grader_runtime_error: bool = False
    python_grader_runtime_error_details: str | None = None
    model_grader_server_error: bool = False
    model_grader_refusal_error: bool = False
    model_grader_parse_error: bool = False
    model_grader_server_error_details: str | None = None


class GraderMetadata(msgspec.Struct, frozen=True, kw_only=True):
    """scores: the rewards of the graders that a multi grader combines. token_usage: of all models together."""

    name: str
    type: str
    errors: GraderErrors
    execution_time: float  # seconds
    scores: dict[str, float]
    token_usage: int | None
    sampled_model_name: str | None


class ModelTokenUsage(msgspec.Struct, frozen=True, kw_only=True):
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    total_tokens: int


class GraderRun(msgspec.Struct, frozen=True, kw_only=True):
    reward: float
    metadata: GraderMetadata
    sub_rewards: dict[str, float]
    model_grader_token_usage_per_model: dict[str, ModelTokenUsage]
