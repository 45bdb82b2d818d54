"""EffortVariables: the variables of a chat template that set the reasoning effort."""

from collections.abc import Mapping
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


class EffortVariables:
    """The variables of one template that control how much the model thinks.

    switches: variables that turn thinking on and off. names: all control variables that the template reads.
    """

    def __init__(self, template: ChatTemplate) -> None:
        read, texts = template.facts.variables, template.facts.texts
        self._template = template
        self.switches = tuple(name for name in SWITCHES if name in read)
        self._level_variable = next((name for name in _LEVEL_VARIABLES if name in read), None)
        self.names = (*self.switches, *filter(None, [self._level_variable]))
        self._levels = texts | _HARMONY_LEVELS if HARMONY.start in template.source else texts

    def kwargs(self, effort: ReasoningEffort) -> tuple[dict[str, Any], bool]:
        """Return the template's variables for `effort`, and whether the template supports that effort.

        If the template lacks the level, the variables may still turn thinking on, unless `effort` is NONE.
        """
        switches: dict[str, Any] = dict.fromkeys(self.switches, effort is not ReasoningEffort.NONE)
        if effort is ReasoningEffort.NONE and switches:
            return switches, True
        for level in _SPELLINGS.get(effort, (effort.value,)):
            if self._level_variable is not None and level in self._levels:
                kwargs = {**switches, self._level_variable: level}
                if render_trial(self._template, kwargs=kwargs) is not None:
                    return kwargs, True
        return switches, False
