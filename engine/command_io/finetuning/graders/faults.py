"""Faults: reasons why a sample could not be graded, by the names of OpenAI's API."""

import enum
from dataclasses import dataclass


class FaultKind(enum.StrEnum):
    """Kinds of faults. The values are the flags in the response of OpenAI's endpoint that runs a grader."""

    SAMPLE_PARSE = "sample_parse_error"  # a template reads JSON, and the sample is not JSON
    INVALID_VARIABLE = "invalid_variable_error"  # a template names a field that does not exist
    FORMULA = "formula_parse_error"  # the formula has no value, such as 1 / 0
    MODEL_PARSE = "model_grader_parse_error"  # the grading model gave no number
    MODEL_REFUSAL = "model_grader_refusal_error"
    MODEL_SERVER = "model_grader_server_error"  # the grading model could not be reached
    OTHER = "other_error"


@dataclass(frozen=True, slots=True)
class GradingFault:
    kind: FaultKind
    message: str


class Ungradable(Exception):
    """Error for a sample that cannot be graded; its reward becomes 0."""

    def __init__(self, kind: FaultKind, message: str) -> None:
        super().__init__(message)
        self.fault = GradingFault(kind, message)
