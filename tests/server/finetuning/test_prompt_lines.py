"""Lines of files for reinforcement: prompts with what their answers are graded by."""

import json
from typing import Any

import pytest

from engine.command_io.finetuning.graders.parsing import parse_grader
from engine.command_io.finetuning.job import TrainingMethod
from server.finetuning.faults import InvalidLine
from server.finetuning.lines import read_training_line
from server.finetuning.prompt_lines import PromptLine, PromptRules

pytestmark = pytest.mark.fast

USER = {"role": "user", "content": "What is 2 + 3?"}
ANSWER = {"role": "assistant", "content": "5"}
TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
CHECK = {
    "type": "string_check",
    "operation": "eq",
    "input": "{{sample.output_text}}",
    "reference": "{{item.answer.sum}} {{item.unit}}",
}


def _read(value: Any) -> PromptLine:
    line, _ = read_training_line(json.dumps(value).encode(), TrainingMethod.REINFORCEMENT)
    assert isinstance(line, PromptLine)
    return line


def _rules(grader: dict[str, Any] = CHECK, max_model_len: int | None = 100) -> PromptRules:
    return PromptRules(parse_grader(grader, "grader"), 20, max_model_len)


@pytest.mark.parametrize("role", ["user", "developer"])
def test_a_line_is_a_prompt_and_an_item(role: str) -> None:
    value = {"messages": [USER, ANSWER, {**USER, "role": role}], "tools": [TOOL], "answer": {"sum": 5}}
    line = _read(value)
    assert [message.role for message in line.fields.messages] == ["user", "assistant", role]
    assert line.fields.tools is not None
    assert line.item == value
    assert line.fields.extra == {}


def test_a_prompt_may_end_with_what_a_tool_gave() -> None:
    call = {"id": "1", "type": "function", "function": {"name": "add", "arguments": "{}"}}
    messages = [
        USER,
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": "5"},
    ]
    assert _read({"messages": messages}).fields.messages[-1].role == "tool"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([], "each line must be a JSON object"),
        ({"answer": "5"}, "messages is null; it must be a list of at least one message"),
        ({"messages": []}, "at least one message"),
        ({"messages": [USER, ANSWER]}, "the last message is of 'assistant'; .* such as reference_answer"),
        ({"messages": [{"role": "system", "content": "Hi"}]}, "of user, developer or tool"),
        ({"messages": ["Hi"]}, "the last message is of 'Hi'"),
        ({"messages": [{**ANSWER, "weight": 0}, USER]}, r"messages\[0\].weight is given"),
        ({"messages": [{"role": "user"}]}, r"messages\[0\]"),
        ({"messages": [USER], "tools": "add"}, "tools is 'add'"),
        ({"input": {"messages": [USER]}, "preferred_output": [ANSWER]}, "a line for the method dpo"),
        ({"text": "Once"}, "a line for the method pretraining"),
    ],
)
def test_a_line_that_is_no_prompt_is_refused(value: Any, message: str) -> None:
    with pytest.raises(InvalidLine, match=message):
        _read(value)


def test_a_chat_to_learn_from_still_ends_with_an_answer() -> None:
    with pytest.raises(InvalidLine, match="it must be the assistant's"):
        read_training_line(json.dumps({"messages": [USER]}).encode(), TrainingMethod.SUPERVISED)


def test_an_item_has_what_the_grader_reads_alone() -> None:
    line = _read({"messages": [USER], "answer": {"sum": 5}, "unit": None, "notes": "long"})
    assert _rules().checked_item(line) == {"answer": {"sum": 5}, "unit": None}
    grader = {**CHECK, "reference": "{{item.messages[0].content}}"}
    assert _rules(grader).checked_item(line) == {"messages": [USER]}


@pytest.mark.parametrize(
    "more", [{}, {"answer": {}, "unit": "m"}, {"answer": "5", "unit": "m"}, {"answer": {"sum": 5}}]
)
def test_an_item_without_what_the_grader_reads_is_refused(more: dict[str, Any]) -> None:
    with pytest.raises(InvalidLine, match=r"the grader's reference reads \{\{item\.(answer\.sum|unit)\}\}.*; add it"):
        _rules().checked_item(_read({"messages": [USER], **more}))


def test_a_grader_among_several_is_named() -> None:
    several = {"type": "multi", "graders": {"exact": CHECK}, "calculate_output": "exact"}
    with pytest.raises(InvalidLine, match=r"the grader's graders\.exact\.reference reads"):
        _rules(several).checked_item(_read({"messages": [USER]}))


ALIKE = {
    "type": "text_similarity",
    "evaluation_metric": "gleu",
    "input": "{{sample.output_text}}",
    "reference": "Sum: {{item.answer}}",
}


def test_a_text_that_is_too_long_to_be_compared_is_refused() -> None:
    limit = 32_768 - len("Sum: ")
    assert _rules(ALIKE).checked_item(_read({"messages": [USER], "answer": "x" * limit}))
    long = _read({"messages": [USER], "answer": "x" * (limit + 1)})
    with pytest.raises(
        InvalidLine,
        match=r"the grader's reference has 32,769 characters with \{\{item\.answer\}\} of this line; up to 32,768 are",
    ):
        _rules(ALIKE).checked_item(long)
    check = {"type": "string_check", "operation": "eq", "input": ALIKE["input"], "reference": ALIKE["reference"]}
    assert _rules(check).checked_item(long)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("input", "{{sample.output_text}}{{item.answer}}", r"input has 40,000 characters with \{\{item\.answer"),
        ("reference", "x" * 32_769, "reference has 32,769 characters; up to 32,768"),
    ],
)
def test_the_text_of_a_grader_among_several_is_named(name: str, text: str, words: str) -> None:
    several = {"type": "multi", "graders": {"alike": {**ALIKE, name: text}}, "calculate_output": "alike"}
    with pytest.raises(InvalidLine, match=rf"the grader's graders\.alike\.{words}"):
        _rules(several).checked_item(_read({"messages": [USER], "answer": "x" * 40_000 if name == "input" else "5"}))


def test_prompts_leave_room_for_answers() -> None:
    _rules().check_length(80)
    _rules(max_model_len=None).check_length(10_000)
    with pytest.raises(
        InvalidLine, match=r"its prompt has 81 tokens, and answers have up to 20 .* the model takes 100"
    ):
        _rules().check_length(81)
