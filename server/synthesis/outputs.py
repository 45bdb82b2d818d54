"""Outputs of a recipe: the lines that are made of an item's variables."""

from collections.abc import Sequence
from typing import Any

import msgspec

from server.synthesis.variables import Values, filled


class LineOutput(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind"):
    """The line made of an item's samples, which are one unless a step has several. best: number by which samples are
    compared."""

    user: str
    assistant: str
    system: str | None = None
    best: str | None = None  # the largest

    @property
    def texts(self) -> dict[str, str | None]:
        return {**self.prompt_texts, "assistant": self.assistant}

    @property
    def prompt_texts(self) -> dict[str, str | None]:
        return {"system": self.system, "user": self.user}

    def best_of(self, samples: Sequence[Values]) -> Values:
        """Return the first sample, or the one with the largest `best`."""
        name = self.best
        return samples[0] if name is None else max(samples, key=lambda values: values[name])

    def line(self, samples: Sequence[Values]) -> dict[str, Any] | str:
        """Return the line, or the reason for which there is none."""
        raise NotImplementedError

    def _prompt(self, values: Values) -> list[dict[str, str]]:
        return [{"role": role, "content": filled(text, values)} for role, text in self.prompt_texts.items() if text]

    def _answer(self, values: Values) -> dict[str, str]:
        return {"role": "assistant", "content": filled(self.assistant, values)}


class ChatOutput(LineOutput, tag="chat", frozen=True):
    """A chat of one question and its answer: the first of several samples, or the one with the largest number."""

    def line(self, samples: Sequence[Values]) -> dict[str, Any] | str:
        best = self.best_of(samples)
        return {"messages": [*self._prompt(best), self._answer(best)]}


class PreferenceOutput(LineOutput, tag="preference", frozen=True):
    """A question with the best and the worst of its answers, as DPO jobs take it. gap: least difference of their
    numbers."""

    best: str
    gap: float = 1

    def line(self, samples: Sequence[Values]) -> dict[str, Any] | str:
        best, worst = self.best_of(samples), min(samples, key=lambda values: values[self.best])
        if len(samples) == 1:
            return "one sample is left"
        if best[self.best] - worst[self.best] < self.gap or self._answer(best) == self._answer(worst):
            return f"the samples' {self.best} is too close"
        return {
            "input": {"messages": self._prompt(best)},
            "preferred_output": [self._answer(best)],
            "non_preferred_output": [self._answer(worst)],
        }


class ToolCallOutput(LineOutput, tag="tool_calls", frozen=True, kw_only=True):
    """A chat of one question and the tool calls that answer it, with the tools. calls: the step that called;
    `assistant` is a text before the calls."""

    assistant: str = ""
    calls: str

    def line(self, samples: Sequence[Values]) -> dict[str, Any] | str:
        best = self.best_of(samples)
        answer = {"role": "assistant", "tool_calls": best[self.calls]}
        if text := filled(self.assistant, best):
            answer["content"] = text
        return {"messages": [*self._prompt(best), answer], "tools": best["tools"]}


OUTPUTS = (ChatOutput, PreferenceOutput, ToolCallOutput)
AnyOutput = ChatOutput | PreferenceOutput | ToolCallOutput
