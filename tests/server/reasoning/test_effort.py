"""reasoning_effort: the variables of a template that say it, and whether they can."""

from typing import Any

import pytest

from server.reasoning.effort import EffortVariables, ReasoningEffort
from server.text.chat_templates.chat_template import ChatTemplate
from server.text.chat_templates.direct_templates import DirectTemplates

pytestmark = pytest.mark.fast

SWITCH = "{% if enable_thinking is defined and not enable_thinking %}<think></think>{% endif %}"
OWN_DEFAULT = "{% if not thinking is defined %}{% set thinking = false %}{% endif %}{{ '<think>' if thinking }}"
LEVELS = (
    "{% if reasoning_effort is defined and reasoning_effort not in ['high', 'low', 'no_think'] %}"
    "{{ raise_exception('no such effort') }}{% endif %}"
)
HARMONY = "{{ 'Reasoning: ' ~ (reasoning_effort or 'medium') }}<|start|>assistant{{ '<|channel|>analysis<|message|>' }}"
MAXIMUM = "{% if thinking and reasoning_effort == 'max' %}Think a lot.{% endif %}"
NOTHING = "{{ messages[0].content }}"


def variables(source: str) -> EffortVariables:
    return EffortVariables(ChatTemplate(source, {}, frozenset(), DirectTemplates()))


def effort(source: str, level: str) -> tuple[dict[str, Any], bool]:
    return variables(source).kwargs(ReasoningEffort(level))


@pytest.mark.parametrize(
    ("source", "names"),
    [
        (SWITCH, ("enable_thinking",)),
        (OWN_DEFAULT, ("thinking",)),
        (LEVELS, ("reasoning_effort",)),
        (MAXIMUM, ("thinking", "reasoning_effort")),
        ("{{ messages[0].thinking }}", ()),
        (NOTHING, ()),
    ],
)
def test_variables_are_those_that_the_template_reads(source: str, names: tuple[str, ...]) -> None:
    assert variables(source).names == names


@pytest.mark.parametrize(
    ("source", "level", "kwargs"),
    [
        (SWITCH, "none", {"enable_thinking": False}),
        (OWN_DEFAULT, "none", {"thinking": False}),
        (LEVELS, "none", {"reasoning_effort": "no_think"}),
        (LEVELS, "low", {"reasoning_effort": "low"}),
        (HARMONY, "high", {"reasoning_effort": "high"}),
        (MAXIMUM, "none", {"thinking": False}),
        (MAXIMUM, "xhigh", {"thinking": True, "reasoning_effort": "max"}),
    ],
)
def test_effort_that_the_template_knows_is_honored(source: str, level: str, kwargs: dict[str, Any]) -> None:
    assert effort(source, level) == (kwargs, True)


@pytest.mark.parametrize(
    ("source", "level", "kwargs"),
    [
        (SWITCH, "low", {"enable_thinking": True}),
        (OWN_DEFAULT, "high", {"thinking": True}),
        (LEVELS, "medium", {}),
        (HARMONY, "none", {}),
        (HARMONY, "xhigh", {}),
        (NOTHING, "high", {}),
    ],
)
def test_level_that_the_template_lacks_is_not_honored(source: str, level: str, kwargs: dict[str, Any]) -> None:
    assert effort(source, level) == (kwargs, False)
