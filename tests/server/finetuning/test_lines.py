"""Lines of training files: what is taken, and the fault of each that is not."""

import json
from typing import Any

import pytest

from engine.command_io.finetuning.job import TrainingMethod
from server.finetuning.faults import InvalidLine
from server.finetuning.lines import Completion, Document, Preference, TrainingChat, read_training_line

pytestmark = pytest.mark.fast

USER = {"role": "user", "content": "Hi"}
ANSWER = {"role": "assistant", "content": "Hello"}
PAIR = {"input": {"messages": [USER]}, "preferred_output": [ANSWER], "non_preferred_output": [ANSWER]}


def _read(value: Any, method: TrainingMethod = TrainingMethod.SUPERVISED) -> Any:
    return read_training_line(json.dumps(value).encode(), method)[0]


def test_a_chat_learns_the_assistants_messages_of_weight_one() -> None:
    line = _read({"messages": [USER, {**ANSWER, "weight": 0}, USER, {**ANSWER, "weight": 1}]})

    assert isinstance(line, TrainingChat)
    assert line.learned == (False, False, False, True)
    assert all("weight" not in (message.model_extra or {}) for message in line.fields.messages)


def test_prompt_and_completion_are_a_line_too() -> None:
    assert _read({"prompt": "a", "completion": "b"}) == Completion("a", "b")


@pytest.mark.parametrize("preferred", ["preferred_output", "preferred_completion"])
@pytest.mark.parametrize("other", ["non_preferred_output", "non_preferred_completion"])
def test_both_spellings_of_a_preference_are_taken(preferred: str, other: str) -> None:
    line = _read(
        {"input": {"messages": [USER]}, preferred: [ANSWER], other: [{**ANSWER, "content": "No"}]}, TrainingMethod.DPO
    )

    assert isinstance(line, Preference)
    assert line.preferred.fields.messages[-1].text == "Hello"
    assert line.other.fields.messages[-1].text == "No"
    assert line.other.learned == (False, True)


def test_a_text_is_a_document() -> None:
    assert _read({"text": "Once"}, TrainingMethod.PRETRAINING) == Document("Once")


@pytest.mark.parametrize(
    ("value", "method", "message"),
    [
        ([], TrainingMethod.SUPERVISED, "each line must be a JSON object"),
        ({"messages": []}, TrainingMethod.SUPERVISED, "a list of at least one message"),
        ({"messages": [USER]}, TrainingMethod.SUPERVISED, "it must be the assistant's"),
        ({"messages": [USER, {**ANSWER, "weight": 0}]}, TrainingMethod.SUPERVISED, "nothing would be learned"),
        (
            {"messages": [USER, {**ANSWER, "weight": 2}]},
            TrainingMethod.SUPERVISED,
            r"messages\[1\].weight is 2; .* 0 or 1",
        ),
        ({"messages": [USER, {**ANSWER, "weight": True}]}, TrainingMethod.SUPERVISED, r"weight is true"),
        ({"messages": [{**USER, "weight": 1}, ANSWER]}, TrainingMethod.SUPERVISED, r"only those of the assistant"),
        ({"messages": [{"role": "wizard"}, ANSWER]}, TrainingMethod.SUPERVISED, r"messages\[0\].role"),
        ({"messages": [USER, ANSWER], "tool": []}, TrainingMethod.SUPERVISED, "tool is not known"),
        ({"prompt": "a"}, TrainingMethod.SUPERVISED, "completion is missing"),
        ({"prompt": "a", "completion": ""}, TrainingMethod.SUPERVISED, "completion is"),
        ({**PAIR, "input": {}}, TrainingMethod.DPO, "input.messages is null"),
        ({**PAIR, "preferred_output": [ANSWER, ANSWER]}, TrainingMethod.DPO, "a list of one message"),
        ({**PAIR, "preferred_output": [USER]}, TrainingMethod.DPO, "a message of the assistant"),
        ({**PAIR, "preferred_completion": [ANSWER]}, TrainingMethod.DPO, "are both given"),
        ({"input": {"messages": [USER]}}, TrainingMethod.DPO, "preferred_output is missing"),
        ({"text": "a", "title": "b"}, TrainingMethod.PRETRAINING, "title is not known"),
        ({"text": 3}, TrainingMethod.PRETRAINING, "text is 3; it must be a string"),
    ],
)
def test_a_faulty_line_is_refused_by_its_field(value: object, method: TrainingMethod, message: str) -> None:
    with pytest.raises(InvalidLine, match=message):
        _read(value, method)


@pytest.mark.parametrize(
    ("line", "method"),
    [
        ({"messages": [USER, ANSWER]}, TrainingMethod.SUPERVISED),
        ({"prompt": "a", "completion": "b"}, TrainingMethod.SUPERVISED),
        (PAIR, TrainingMethod.DPO),
        ({"text": "a"}, TrainingMethod.PRETRAINING),
    ],
)
def test_metadata_has_no_effect(line: dict[str, object], method: TrainingMethod) -> None:
    marked = json.dumps({**line, "metadata": {"recipe": "a"}}).encode()
    assert read_training_line(marked, method) == read_training_line(json.dumps(line).encode(), method)


def test_what_is_no_json_is_refused() -> None:
    with pytest.raises(InvalidLine, match=r"^this line is not valid (JSON|UTF-8)"):
        read_training_line(b'{"messages": [', TrainingMethod.SUPERVISED)


@pytest.mark.parametrize(
    ("line", "is_for", "method"),
    [
        ({"messages": [{"role": "assistant", "content": "a"}]}, TrainingMethod.SUPERVISED, TrainingMethod.DPO),
        ({"prompt": "a", "completion": "b"}, TrainingMethod.SUPERVISED, TrainingMethod.PRETRAINING),
        (
            {"input": {}, "preferred_output": [], "non_preferred_output": []},
            TrainingMethod.DPO,
            TrainingMethod.SUPERVISED,
        ),
        ({"text": "a"}, TrainingMethod.PRETRAINING, TrainingMethod.SUPERVISED),
    ],
)
def test_a_line_for_another_method_is_told_so(
    line: dict[str, object], is_for: TrainingMethod, method: TrainingMethod
) -> None:
    with pytest.raises(InvalidLine, match=f"for the method {is_for}, and the method is {method}"):
        read_training_line(json.dumps(line).encode(), method)
