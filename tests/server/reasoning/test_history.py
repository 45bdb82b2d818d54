"""Thoughts of earlier answers: in the field that the template reads, whatever field a client sends."""

from typing import Any

import pytest

from engine.errors import InvalidRequest
from server.reasoning.history import find_thought_field, with_thought_in
from server.text.chat_templates.chat_template import ChatTemplate
from server.text.chat_templates.direct_templates import DirectTemplates

pytestmark = pytest.mark.fast

FIELDS = ["reasoning_content", "reasoning", "thinking"]
ANSWER = {"role": "assistant", "content": "Yes."}


@pytest.mark.parametrize("field", FIELDS)
def test_field_is_the_one_that_the_template_shows(field: str) -> None:
    source = f"{{% for m in messages %}}{{{{ m.{field} }}}}{{{{ m.content }}}}{{% endfor %}}"
    assert find_thought_field(ChatTemplate(source, {}, frozenset(), DirectTemplates())) == field


def test_field_is_found_where_thoughts_are_shown_between_tool_calls_only() -> None:
    source = "{% for m in messages %}{% if m.tool_calls %}{{ m.thinking }}{% endif %}{{ m.content }}{% endfor %}"
    assert find_thought_field(ChatTemplate(source, {}, frozenset(), DirectTemplates())) == "thinking"


def test_template_that_shows_answers_alone_has_no_field() -> None:
    source = "{% for m in messages %}{{ m.content }}{% endfor %}"
    assert find_thought_field(ChatTemplate(source, {}, frozenset(), DirectTemplates())) is None


@pytest.mark.parametrize("sent", FIELDS)
@pytest.mark.parametrize("field", FIELDS)
def test_thought_moves_to_the_field(sent: str, field: str) -> None:
    assert with_thought_in({**ANSWER, sent: "So."}, field) == {**ANSWER, field: "So."}


def test_thought_in_two_fields_is_given_once() -> None:
    message = {**ANSWER, "reasoning": "So.", "reasoning_content": "So."}
    assert with_thought_in(message, "reasoning_content") == {**ANSWER, "reasoning_content": "So."}


def test_thought_is_dropped_where_the_template_reads_none() -> None:
    assert with_thought_in({**ANSWER, "reasoning": "So."}, None) == ANSWER


@pytest.mark.parametrize("thought", [None, ""])
def test_empty_thought_is_none(thought: str | None) -> None:
    assert with_thought_in({**ANSWER, "reasoning": thought}, "reasoning") == ANSWER


def test_other_roles_are_left_alone() -> None:
    message = {"role": "user", "content": "Hello", "reasoning": "So."}
    assert with_thought_in(message, "thinking") == message


def test_thought_joins_the_text_before_a_call_where_the_template_takes_one_of_them() -> None:
    calls: list[dict[str, Any]] = [{"type": "function"}]
    message = {"role": "assistant", "content": "I look.", "reasoning": "So.", "tool_calls": calls}
    expected = {"role": "assistant", "content": "", "thinking": "So.\nI look.", "tool_calls": calls}
    assert with_thought_in(message, "thinking") == expected


@pytest.mark.parametrize(
    ("thoughts", "text"), [({"reasoning": 1}, "must be a string"), ({"reasoning": "a", "thinking": "b"}, "differ")]
)
def test_thought_that_cannot_be_read_is_refused(thoughts: dict[str, Any], text: str) -> None:
    with pytest.raises(InvalidRequest, match=text):
        with_thought_in({**ANSWER, **thoughts}, "reasoning")
