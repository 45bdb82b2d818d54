"""The response of POST /v1/systemone."""

from typing import Any, Literal

import msgspec
from msgspec import UNSET, UnsetType

from server.schemas.decisions_answers import AnswerDetails


class _Answer(msgspec.Struct, kw_only=True):
    details: AnswerDetails | UnsetType = UNSET  # none for a question that is not asked


class NoulAnswer(_Answer, kw_only=True):
    type: Literal["noul"] = "noul"
    noul: float  # the probability of a yes


class SystemOneChoiceAnswer(_Answer, kw_only=True):
    type: Literal["choice"] = "choice"
    choice: str  # the likeliest label
    confidence: float
    probabilities: dict[str, float]  # by label


class SystemOneScoreAnswer(_Answer, kw_only=True):
    type: Literal["score"] = "score"
    score: float  # the mean of the levels, which count from 0
    confidence: float
    legend: dict[str, str | dict[str, Any] | list[Any]]  # the levels by number: "0", "1", ...
    probabilities: dict[str, float]  # by the same numbers


AnyAnswer = NoulAnswer | SystemOneChoiceAnswer | SystemOneScoreAnswer


class SystemOneUsage(msgspec.Struct, kw_only=True):
    """Tokens of the state, once, and of each question. No text is generated."""

    input_tokens: int
    output_tokens: int = 0


class SystemOneAnswer(msgspec.Struct, kw_only=True):
    model: str
    answers: dict[str, AnyAnswer]  # by question; a question whose labels the model finds too unlikely is left out
    usage: SystemOneUsage
