"""DirectTemplates: a TemplateRunner in this process, whose limits are incomplete.

The budget ends loops and texts that grow too large by accident. A single operation of Jinja or Python can still take
any time or memory, so the server runs templates in processes that it can kill: server/text/chat_templates/processes.py.
"""

import functools
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

import jinja2
from jinja2 import meta, nodes

from server.text.chat_templates.environment import BUDGET, Budget, RenderingBudgetSpent, TemplateEnvironment
from server.text.chat_templates.runner import (
    TemplateFacts,
    TemplateLimits,
    TemplateOverrun,
    TemplateRefusal,
    TemplateUnreadable,
)

# Exceptions of a template's expressions if the messages are not as it expects
_EXPRESSION_ERRORS = (
    jinja2.TemplateError,
    TypeError,
    ValueError,
    LookupError,
    AttributeError,
    ArithmeticError,
    RecursionError,
)
# Exceptions of Jinja and Python's compiler for a source that is not a template, or is nested too deeply
_SOURCE_ERRORS = (jinja2.TemplateError, SyntaxError, ValueError, RecursionError)
_MAX_COMPILED = 4
_MAX_REASON = 2000  # characters of a template's own message


class DirectTemplates:
    """A TemplateRunner that runs templates in this process."""

    def __init__(
        self,
        limits: TemplateLimits = TemplateLimits(),  # noqa: B008 - it is frozen
        *,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = datetime.now,
    ) -> None:
        self._limits = limits
        self._clock = clock
        self._environment = TemplateEnvironment(now)
        self._compiled = functools.lru_cache(_MAX_COMPILED)(self._environment.from_string)

    @property
    def no_memory(self) -> str:
        """Message of the TemplateOverrun that is raised if memory runs out."""
        return f"it needs more than {self._limits.num_bytes >> 20} MiB of memory"

    def inspect(self, source: str) -> TemplateFacts:
        try:
            self._compiled(source)
            tree = self._environment.parse(source)
            # Texts first, since the search for variables folds the tree's constants.
            texts = {constant.value for constant in tree.find_all(nodes.Const) if isinstance(constant.value, str)}
            variables = meta.find_undeclared_variables(tree)
        except MemoryError:
            raise TemplateOverrun(self.no_memory) from None
        except _SOURCE_ERRORS as error:
            line = getattr(error, "lineno", None)
            raise TemplateUnreadable(f"{'' if line is None else f'line {line}: '}{_reason(error)}") from error
        return TemplateFacts(frozenset(variables), frozenset(texts), frozenset(self._environment.globals) | {BUDGET})

    def render(self, source: str, variables: Mapping[str, Any]) -> str:
        budget = Budget(self._clock, self._limits.seconds)
        pieces = []
        try:
            for piece in self._compiled(source).generate({**variables, BUDGET: budget}):
                budget.spend(len(piece))
                pieces.append(piece)
            return "".join(pieces)
        except RenderingBudgetSpent as error:
            raise TemplateOverrun(_reason(error)) from error
        except MemoryError:
            raise TemplateOverrun(self.no_memory) from None
        except _EXPRESSION_ERRORS as error:
            raise TemplateRefusal(_reason(error)) from error


def _reason(error: Exception) -> str:
    text = str(getattr(error, "message", None) or error)
    return text if len(text) <= _MAX_REASON else f"{text[:_MAX_REASON]}..."
