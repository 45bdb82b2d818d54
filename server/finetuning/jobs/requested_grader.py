"""requested_grader: validates the grader in a request for reinforcement fine-tuning."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from engine.command_io.finetuning.graders.definitions import Grader, needed_models
from engine.command_io.finetuning.graders.parsing import ignored_fields, parse_grader
from engine.command_io.finetuning.job import TrainingMethod
from engine.errors import InvalidRequest, UnsupportedParameter
from server.errors import ModelNotFound
from server.finetuning.scoring import check_samples
from server.schemas.base import quote
from server.schemas.finetuning import FinetuningRequest
from server.served.models import ServedModels

_PATH = "method.reinforcement"
_PARAM = f"{_PATH}.grader"


@dataclass(frozen=True, slots=True)
class RequestedGrader:
    """A validated grader. body: its JSON in the request. ignored: paths of fields without effect."""

    grader: Grader
    body: dict[str, Any]
    ignored: Sequence[str]


def requested_grader(body: FinetuningRequest) -> RequestedGrader | None:
    """Validate and return a request's grader; None if the method is not reinforcement. Raises InvalidRequest for a
    missing or invalid grader, and UnsupportedParameter for a feature that jobs do not have."""
    method = body.method
    if method is None or method.type != TrainingMethod.REINFORCEMENT:
        return None
    settings = method.reinforcement
    if settings is None or settings.grader is None:
        raise InvalidRequest.of(_PARAM, "is missing; reinforcement needs a grader, which rewards answers")
    if settings.response_format not in (None, {"type": "text"}):
        param = f"{_PATH}.response_format"
        raise UnsupportedParameter.of(
            param,
            "is given, and answers are not constrained while a model is trained; leave it out, and let the "
            "grader read sample.output_json, which every answer that is JSON has",
        )
    grader = parse_grader(settings.grader, _PARAM)
    check_samples(grader, _PARAM)
    return RequestedGrader(grader, settings.grader, ignored_fields(settings.grader, _PARAM))


def check_models(grader: Grader, models: ServedModels, param: str = _PARAM) -> None:
    """Raise InvalidRequest if the grader uses a model that the caller may not use, or a pooling model."""
    for name in needed_models(grader):
        try:
            model = models.find(name)
        except ModelNotFound as error:
            raise InvalidRequest(f"{param} asks {quote(name)}: {error}", param=param, code="model_not_found") from None
        if model.info is not None and not model.info.generates:
            raise InvalidRequest.of(param, f"asks {quote(name)}, which pools texts; name a model that generates text")
