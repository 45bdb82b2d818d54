"""reasoning_effort -> the variables of the chat template that say so."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from server.reasoning.marks import HARMONY
from server.reasoning.probe import SWITCHES, render
from server.text.chat_template import ChatTemplate


class ReasoningEffort(StrEnum):
    """How much a model thinks before it answers."""

    NONE = "none"
    MINIMAL = "minimal"
    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"
    XHIGH = "xhigh"


_LEVEL_VARIABLES = ("reasoning_effort", "thinking_effort")
# Other words of templates for the same level.
_SPELLINGS: Mapping[ReasoningEffort, tuple[str, ...]] = {
    ReasoningEffort.NONE: ("none", "no_think"),
    ReasoningEffort.XHIGH: ("xhigh", "max"),
}
# Harmony's template writes any level into the prompt; the models were trained on these.
_HARMONY_LEVELS = frozenset({"low", "medium", "high"})


@dataclass(frozen=True, slots=True)
class EffortKwargs:
    """What a template is given for an effort. A client's own chat_template_kwargs go before it."""

    kwargs: Mapping[str, Any]
    # False: the template knows no such level. `kwargs` may still turn thinking on, as every level but none wants it.
    is_honored: bool


class EffortVariables:
    """The variables by which one template lets a client say how much to think."""

    def __init__(self, template: ChatTemplate) -> None:
        read, texts = template.facts.variables, template.facts.texts
        self._template = template
        self._switches = tuple(name for name in SWITCHES if name in read)
        self._level_variable = next((name for name in _LEVEL_VARIABLES if name in read), None)
        self._levels = texts | _HARMONY_LEVELS if HARMONY.start in template.source else texts

    @property
    def switches(self) -> tuple[str, ...]:
        """Of the variables, those that turn thinking on and off."""
        return self._switches

    @property
    def names(self) -> tuple[str, ...]:
        """The variables that the template reads."""
        return self._switches if self._level_variable is None else (*self._switches, self._level_variable)

    def kwargs(self, effort: ReasoningEffort) -> EffortKwargs:
        """What the template is given for `effort`."""
        switches: dict[str, Any] = dict.fromkeys(self._switches, effort is not ReasoningEffort.NONE)
        if effort is ReasoningEffort.NONE and switches:
            return EffortKwargs(switches, is_honored=True)
        for level in _SPELLINGS.get(effort, (effort.value,)):
            if self._level_variable is not None and level in self._levels:
                kwargs = {**switches, self._level_variable: level}
                if render(self._template, kwargs=kwargs) is not None:
                    return EffortKwargs(kwargs, is_honored=True)
        return EffortKwargs(switches, is_honored=False)
