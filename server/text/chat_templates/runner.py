"""TemplateRunner: the interface for running chat templates, in this process or in processes that can be killed."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class TemplateLimits:
    """Limits of one rendering, far above the needs of real templates."""

    seconds: float = 5.0
    num_bytes: int = 512 << 20  # memory of the rendering, besides what the process itself needs


class TemplateUnreadable(Exception):
    """The source is not a template. The message says where and why."""


class TemplateRefusal(Exception):
    """The template refuses its input: it raised an exception, or one of its expressions failed."""


class TemplateOverrun(Exception):
    """Reading or rendering the template exceeded a limit, or ended its process."""


class TemplateInterrupted(TemplateOverrun):
    """The template's process was ended for a cause that may pass: a busy machine, too little memory, a shutdown."""


class TemplateStopped(TemplateInterrupted):
    """The server is shutting down and runs no more templates."""

    def __init__(self) -> None:
        super().__init__("the server is shutting down")


@dataclass(frozen=True, slots=True)
class TemplateFacts:
    """Facts from a template's source. variables: names that the template reads and does not set. texts: its string
    constants. functions: names of the functions that every template has."""

    variables: frozenset[str]
    texts: frozenset[str]
    functions: frozenset[str]


class TemplateRunner(Protocol):
    """Reads and renders templates. Both methods may be called from any thread, and raise TemplateOverrun."""

    def inspect(self, source: str) -> TemplateFacts:
        """Parse a template and return facts about it. Raises TemplateUnreadable."""

    def render(self, source: str, variables: Mapping[str, Any]) -> str:
        """Return the rendered text. Variables may be of the types that JSON has, with strings as keys. Raises
        TemplateRefusal."""
