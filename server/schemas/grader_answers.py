"""Answers to the validation and the run of a grader, in OpenAI's shape."""

from typing import Any

import msgspec


class GraderValidation(msgspec.Struct, frozen=True):
    """The grader, with names for the parts that had none."""

    grader: dict[str, Any]


class GraderErrors(msgspec.Struct, frozen=True, kw_only=True):
    """OpenAI's flags for errors. This server runs no Python, and truncates no observations."""

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
    """Results of a grader's run. scores: rewards of the graders in a multi grader. token_usage: of all models."""

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
