"""The Jinja environment of chat templates: transformers' settings in a sandbox, with a budget of time and size."""

import json
from collections.abc import Callable
from datetime import datetime
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

BUDGET = " budget"  # the variable of a rendering's Budget; a name in a template cannot have a space
_MAX_CHARACTERS = 32 * 2**20
_MAX_BITS = 4096  # of an integer from **


class RenderingBudgetSpent(jinja2.TemplateRuntimeError):
    """A rendering exceeded its budget."""


class Budget:
    """The time and number of characters that one rendering has left."""

    def __init__(self, clock: Callable[[], float], max_seconds: float) -> None:
        self._clock = clock
        self._max_seconds = max_seconds
        self._deadline_s = clock() + max_seconds
        self._characters = _MAX_CHARACTERS

    def spend(self, characters: int = 0) -> None:
        self._characters -= characters
        if self._characters < 0:
            raise RenderingBudgetSpent(f"its text has more than {_MAX_CHARACTERS:,} characters")
        if self._clock() > self._deadline_s:
            raise RenderingBudgetSpent(f"it ran for more than {self._max_seconds:g} s")


class _GenerationTag(Extension):
    """The tag {% generation %}, which marks the text to train on. Its content is rendered unchanged."""

    tags = {"generation"}  # noqa: RUF012 - Jinja's own protocol

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True)).set_lineno(line)


class TemplateEnvironment(ImmutableSandboxedEnvironment):
    """A Jinja sandbox with transformers' settings. Calls, and operators that can make a text grow, spend the budget."""

    intercepted_binops = frozenset({"+", "*", "**"})

    def __init__(self, now: Callable[[], datetime]) -> None:
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationTag, loopcontrols])
        self.filters["tojson"] = _to_json
        self.globals["raise_exception"] = _raise_exception
        self.globals["strftime_now"] = lambda layout: now().strftime(layout)

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        __context.parent[BUDGET].spend()
        return super().call(__context, __obj, *args, **kwargs)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        context.parent[BUDGET].spend()
        if operator == "*":
            for sequence, times in ((left, right), (right, left)):
                if isinstance(times, int) and hasattr(sequence, "__len__") and len(sequence) * times > _MAX_CHARACTERS:
                    raise RenderingBudgetSpent(f"it repeats a text to more than {_MAX_CHARACTERS:,} characters")
        if (
            operator == "**"
            and isinstance(left, int)
            and isinstance(right, int)
            and left.bit_length() * right > _MAX_BITS
        ):
            raise RenderingBudgetSpent(f"it computes an integer of more than {_MAX_BITS} bits")
        return super().call_binop(context, operator, left, right)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Return JSON without the HTML escapes of <, > and & that Jinja's filter writes and no model was trained on."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)
