"""EffortVariables: the variables of a chat template that set the reasoning effort."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from server.reasoning.marks import HARMONY
from server.reasoning.probe import SWITCHES, render_trial
from server.text.chat_templates.chat_template import ChatTemplate


class ReasoningEffort(StrEnum):
    """How much a model thinks before it answers."""

    NONE = "none"
    MINIMAL = "minimal"
    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"
    XHIGH = "xhigh"


_LEVEL_VARIABLES = ("reasoning_effort", "thinking_effort")
# The words of templates for a level, if they differ from its name
_SPELLINGS: Mapping[ReasoningEffort, tuple[str, ...]] = {
    ReasoningEffort.NONE: ("none", "no_think"),
    ReasoningEffort.XHIGH: ("xhigh", "max"),
}
# The levels that Harmony's models were trained on; their template accepts any
_HARMONY_LEVELS = frozenset({"low", "medium", "high"})


@dataclass(frozen=True, slots=True)
class EffortKwargs:
    """Variables of a template for an effort. A client's own chat_template_kwargs take precedence."""

    kwargs: Mapping[str, Any]
    # False: the template does not have the level. `kwargs` may still turn thinking on, for every level but none.
    is_honored: bool


class EffortVariables:
    """The variables of one template that control how much the model thinks."""

    def __init__(self, template: ChatTemplate) -> None:
        read, texts = template.facts.variables, template.facts.texts
        self._template = template
        self._switches = tuple(name for name in SWITCHES if name in read)
        self._level_variable = next((name for name in _LEVEL_VARIABLES if name in read), None)
        self._levels = texts | _HARMONY_LEVELS if HARMONY.start in template.source else texts

    @property
    def switches(self) -> tuple[str, ...]:
        """Variables that turn thinking on and off."""
        return self._switches

    @property
    def names(self) -> tuple[str, ...]:
        """All variables for thinking that the template reads."""
        return self._switches if self._level_variable is None else (*self._switches, self._level_variable)

    def kwargs(self, effort: ReasoningEffort) -> EffortKwargs:
        """Return the template's variables for `effort`."""
        switches: dict[str, Any] = dict.fromkeys(self._switches, effort is not ReasoningEffort.NONE)
        if effort is ReasoningEffort.NONE and switches:
            return EffortKwargs(switches, is_honored=True)
        for level in _SPELLINGS.get(effort, (effort.value,)):
            if self._level_variable is not None and level in self._levels:
                kwargs = {**switches, self._level_variable: level}
                if render_trial(self._template, kwargs=kwargs) is not None:
                    return EffortKwargs(kwargs, is_honored=True)
        return EffortKwargs(switches, is_honored=False)
