"""Questions of graders as chats: what they ask for, and what is read of the answers."""

import json
import re
from typing import Any

import pytest

from engine.command_io.finetuning.graders.definitions import ScoreSampling
from engine.command_io.finetuning.graders.faults import FaultKind
from engine.command_io.finetuning.graders.grading import ScoreQuestion, read_score
from server.finetuning.scoring import chat_body, read_chat_score
from server.jobs.answers import AnswerUsage, BodyAnswer
from server.schemas.base import validate
from server.schemas.chat import ChatCompletionRequest

pytestmark = pytest.mark.fast

MESSAGES = [{"role": "user", "content": "How good?"}]


def _body(low: float = 0, high: float = 1, sampling: ScoreSampling | None = None) -> dict[str, Any]:
    return chat_body(ScoreQuestion("tiny", MESSAGES, low, high, sampling or ScoreSampling()))


def test_a_question_is_a_chat_that_is_answered_greedily_with_a_number() -> None:
    body = _body()
    assert (body["model"], body["messages"], body["temperature"]) == ("tiny", MESSAGES, 0.0)
    assert body.keys() == {"model", "messages", "temperature", "structured_outputs"}
    assert validate(ChatCompletionRequest, body).messages[0].text == "How good?"


def test_what_the_grader_says_of_sampling_is_passed_on() -> None:
    body = _body(sampling=ScoreSampling(16, "low", 3, 0.5, 0.9))
    expected = {"max_completion_tokens": 16, "reasoning_effort": "low", "seed": 3, "temperature": 0.5, "top_p": 0.9}
    assert expected.items() <= body.items()
    validate(ChatCompletionRequest, body)


@pytest.mark.parametrize(
    ("low", "high", "taken", "refused"),
    [
        (0, 1, ["0", "1", "0.5", "0.12"], ["-1", "10", ".5", "1.", "0.123", "", "x", "1 "]),
        (0, 0.001, ["0.000125"], ["10"]),
        (-10, 5, ["-10", "-0.5", "5"], ["100", "--1", "+1"]),
        (0, 1e300, ["1" * 15], ["1" * 16]),
    ],
)
def test_answers_are_numbers_with_as_many_digits_as_the_range(
    low: float, high: float, taken: list[str], refused: list[str]
) -> None:
    pattern = re.compile(_body(low, high)["structured_outputs"]["regex"])
    assert [text for text in taken if not pattern.fullmatch(text)] == []
    assert [text for text in refused if pattern.fullmatch(text)] == []
    assert [read_score(text) for text in taken] == [float(text) for text in taken]


def test_an_answer_is_read_with_what_it_used() -> None:
    usage = {"prompt_tokens": 7, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 4}}
    answer = {"choices": [{"message": {"role": "assistant", "content": "0.5"}}], "usage": usage}
    answered = BodyAnswer("req_1", 200, json.dumps(answer).encode())
    found = read_chat_score(answered)
    assert (found.text, found.fault) == ("0.5", None)
    assert answered.usage == AnswerUsage(input_tokens=7, cached_tokens=4, output_tokens=2)


def test_an_error_is_a_fault() -> None:
    answered = BodyAnswer("req_1", 400, b'{"error": {"message": "the prompt is too long", "code": null}}')
    found = read_chat_score(answered)
    assert found.fault is not None
    assert (found.fault.kind, found.fault.message) == (FaultKind.MODEL_SERVER, "the prompt is too long")
    assert answered.usage == AnswerUsage()
