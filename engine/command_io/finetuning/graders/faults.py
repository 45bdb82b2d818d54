"""Faults: why a sample could not be graded, by the names of OpenAI's API."""

import enum
from dataclasses import dataclass


class FaultKind(enum.StrEnum):
    """The values are the flags of OpenAI's answer to a run of a grader."""

    SAMPLE_PARSE = "sample_parse_error"  # a template reads JSON, and the sample is none
    INVALID_VARIABLE = "invalid_variable_error"  # a template names a field that is not there
    FORMULA = "formula_parse_error"  # the formula has no value, such as 1 / 0
    MODEL_PARSE = "model_grader_parse_error"  # the model that grades gave no number
    MODEL_REFUSAL = "model_grader_refusal_error"
    MODEL_SERVER = "model_grader_server_error"  # the model that grades could not be asked
    OTHER = "other_error"


@dataclass(frozen=True, slots=True)
class GradingFault:
    kind: FaultKind
    message: str


class Ungradable(Exception):
    """Raised where a sample cannot be graded, and caught where its reward becomes 0."""

    def __init__(self, kind: FaultKind, message: str) -> None:
        super().__init__(message)
        self.fault = GradingFault(kind, message)
