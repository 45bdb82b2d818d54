"""Bodies and responses of POST /v1/fine_tuning/alpha/graders/validate and /run, in OpenAI's shapes."""

from typing import Any

import msgspec

from server.schemas.base import StrictModel


class GraderValidateRequest(StrictModel):
    """The body of POST /v1/fine_tuning/alpha/graders/validate. grader: a grader in OpenAI's form."""

    grader: dict[str, Any]


class GraderRunRequest(GraderValidateRequest):
    """The body of POST /v1/fine_tuning/alpha/graders/run. model_sample: answer to grade. item: fields for templates."""

    model_sample: str
    item: dict[str, Any] | None = None


class GraderValidation(msgspec.Struct, frozen=True):
    """The validated grader. Parts without a name have been given one."""

    grader: dict[str, Any]


class GraderErrors(msgspec.Struct, frozen=True, kw_only=True):
    """OpenAI's error flags of a grader's run. The flags about Python and truncated observations are always false."""

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
    """Metadata of a grader's run. scores: rewards of a multi grader's parts. token_usage: the total of all models."""

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
