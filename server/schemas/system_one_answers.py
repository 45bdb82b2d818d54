"""The response of POST /v1/systemone."""

from typing import Any, Literal

import msgspec


class NoulAnswer(msgspec.Struct, kw_only=True):
    type: Literal["noul"] = "noul"
    noul: float  # the probability of a yes


class SystemOneChoiceAnswer(msgspec.Struct, kw_only=True):
    type: Literal["choice"] = "choice"
    choice: str  # the likeliest label
    confidence: float
    probabilities: dict[str, float]  # by label


class SystemOneScoreAnswer(msgspec.Struct, kw_only=True):
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
