"""The response of POST /v1/decisions."""

from typing import Literal

import msgspec
from msgspec import UNSET, UnsetType


class AnswerDetails(msgspec.Struct, kw_only=True):
    """Probabilities as the model gives them, if the request asks for details."""

    mass: float  # the probability that the model answers with one of the labels at all
    raw_probabilities: list[float]  # of each label, in the question's order; yes and no for a predicate


class PredicateAnswer(msgspec.Struct, kw_only=True):
    type: Literal["predicate"] = "predicate"
    name: str | None
    details: AnswerDetails | UnsetType = UNSET
    probability: float  # that the statement is true


class ValueProbability(msgspec.Struct):
    value: str | bool
    probability: float


class ChoiceAnswer(msgspec.Struct, kw_only=True):
    type: Literal["choice"] = "choice"
    name: str | None
    details: AnswerDetails | UnsetType = UNSET
    choice: str | bool  # the likeliest option
    confidence: float
    probabilities: list[ValueProbability]


class LevelProbability(msgspec.Struct):
    label: str
    value: int  # from 0
    probability: float


class ScaleAnswer(msgspec.Struct, kw_only=True):
    type: Literal["score"] = "score"
    name: str | None
    details: AnswerDetails | UnsetType = UNSET
    score: float  # the mean of the levels' values
    confidence: float
    probabilities: list[LevelProbability]


class RefusalAnswer(msgspec.Struct, kw_only=True):
    """The answer to a question whose labels the model finds too unlikely."""

    type: Literal["refusal"] = "refusal"
    name: str | None
    details: AnswerDetails | UnsetType = UNSET


Answer = PredicateAnswer | ChoiceAnswer | ScaleAnswer | RefusalAnswer


class DecisionInputDetails(msgspec.Struct):
    cached_tokens: int
    cache_write_tokens: int


class DecisionOutputDetails(msgspec.Struct, frozen=True):
    reasoning_tokens: int = 0


class DecisionUsage(msgspec.Struct, kw_only=True):
    """Tokens of the input, once, and of each question. No text is generated."""

    input_tokens: int
    input_tokens_details: DecisionInputDetails
    output_tokens: int = 0
    output_tokens_details: DecisionOutputDetails = DecisionOutputDetails()
    total_tokens: int


class DecisionAnswer(msgspec.Struct, kw_only=True):
    model: str
    answers: list[Answer]  # in the questions' order
    usage: DecisionUsage
