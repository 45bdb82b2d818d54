"""Bodies of POST /v1/fine_tuning/alpha/graders/validate and /run."""

from typing import Any

from server.schemas.base import StrictModel


class GraderValidateRequest(StrictModel):
    """The body of POST /v1/fine_tuning/alpha/graders/validate. grader: a grader in OpenAI's form."""

    grader: dict[str, Any]


class GraderRunRequest(GraderValidateRequest):
    """The body of POST /v1/fine_tuning/alpha/graders/run. model_sample: an answer. item: the `item` of templates."""

    model_sample: str
    item: dict[str, Any] | None = None
