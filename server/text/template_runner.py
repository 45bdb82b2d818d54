"""TemplateRunner: what runs a chat template's Jinja program, in this process or in one that can be killed."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class TemplateLimits:
    """What one rendering may take: far more than real templates need."""

    seconds: float = 5.0
    num_bytes: int = 512 << 20  # of memory, beside what the program itself takes


class TemplateUnreadable(Exception):
    """The source is no template. The message says where and why."""


class TemplateRefusal(Exception):
    """The template, or one of its expressions, objects to what it is given."""


class TemplateOverrun(Exception):
    """Reading or rendering the template took more than it may have, or ended the process that did it."""


@dataclass(frozen=True, slots=True)
class TemplateFacts:
    """What is known of a template from its source. Names in it: of the variables that it reads and does not set; all
    texts that it spells; and of the functions that every template has."""

    variables: frozenset[str]
    texts: frozenset[str]
    functions: frozenset[str]


class TemplateRunner(Protocol):
    """Both methods may be called from any thread, and raise TemplateOverrun."""

    def inspect(self, source: str) -> TemplateFacts:
        """Raises TemplateUnreadable."""

    def render(self, source: str, variables: Mapping[str, Any]) -> str:
        """The text that the template makes of `variables`: of dicts with texts as keys, lists, texts, numbers, booleans
        and None. Raises TemplateRefusal."""
