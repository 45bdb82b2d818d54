"""Checks of graders, conversion of grading requests to chat requests, and of their answers to scores."""

from typing import Any

import msgspec

from engine.command_io.finetuning.graders.definitions import Grader, sample_fields
from engine.command_io.finetuning.graders.faults import FaultKind, GradingFault
from engine.command_io.finetuning.graders.grading import ScoreAnswer, ScoreQuestion
from engine.errors import InvalidRequest, UnsupportedParameter
from server.jobs.answers import BodyAnswer

ENDPOINT = "/v1/chat/completions"

_DECIMALS, _MORE_DECIMALS = 2, 6  # more for a range below 1; small models write all that they may
_MAX_DIGITS = 15


def check_samples(grader: Grader, param: str) -> None:
    """Raise InvalidRequest if the grader reads no field of the sample, or one that jobs do not provide."""
    read = sample_fields(grader)
    if not read:
        raise InvalidRequest.of(
            param,
            "reads nothing of the sample, so that all answers would have the same reward; compare "
            "{{sample.output_text}} with something",
        )
    if "output_tools" in read:
        raise UnsupportedParameter.of(
            param,
            "reads sample.output_tools, and a job does not look for calls in the model's answers; compare "
            "{{sample.output_text}}",
        )


def chat_body(question: ScoreQuestion) -> dict[str, Any]:
    """Return the body of a chat request whose answer is a number. It is greedy unless the grader sets a temperature, so
    that equal samples get equal rewards."""
    sampling = question.sampling
    given = {
        "max_completion_tokens": sampling.max_completion_tokens,
        "reasoning_effort": sampling.reasoning_effort,
        "seed": sampling.seed,
        "top_p": sampling.top_p,
        "temperature": 0.0 if sampling.temperature is None else sampling.temperature,
    }
    return {
        "model": question.model,
        "messages": question.messages,
        "structured_outputs": {"regex": _number(question.low, question.high)},
        **{name: value for name, value in given.items() if value is not None},
    }


def _number(low: float, high: float) -> str:
    """Return a regular expression for numbers with no more digits than the bounds of the range."""
    digits = min(_MAX_DIGITS, len(str(int(max(abs(low), abs(high))))))
    decimals = _DECIMALS if high - low >= 1 else _MORE_DECIMALS
    sign = "-?" if low < 0 else ""
    return rf"{sign}[0-9]{{1,{digits}}}(\.[0-9]{{1,{decimals}}})?"


def read_chat_score(answer: BodyAnswer) -> ScoreAnswer:
    """Read the score in the answer: a number as text, or the server's error."""
    content = msgspec.json.decode(answer.body)
    if not answer.is_completed:
        return unscored(content["error"]["message"])
    return ScoreAnswer(content["choices"][0]["message"].get("content") or "")


def unscored(reason: str) -> ScoreAnswer:
    return ScoreAnswer(fault=GradingFault(FaultKind.MODEL_SERVER, reason))
