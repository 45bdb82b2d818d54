"""The bodies of POST /v1/fine_tuning/alpha/graders/validate and /run."""

from typing import Any

from server.schemas.base import StrictModel


class GraderValidateRequest(StrictModel):
    """grader: read by the engine's own parser."""

    grader: dict[str, Any]


class GraderRunRequest(GraderValidateRequest):
    """model_sample: an answer of a model. item: what templates call item."""

    model_sample: str
    item: dict[str, Any] | None = None
