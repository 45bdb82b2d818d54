"""ToolFormat: one way of writing tool calls, with the parser that reads it and the grammar that forces it."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from server.schemas.base import Location
from server.structured_outputs.grammar import GrammarBuilder


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool that the model may call."""

    name: str
    parameters: Mapping[str, Any] | bool  # JSON schema of the arguments, ready for GrammarBuilder.json
    definition: Mapping[str, Any]  # as the client sent it, for the template
    path: str = ""  # of its parameters in the request
    is_strict: bool = False  # a schema that is not enforced as a whole is refused


@dataclass(frozen=True, slots=True)
class AnswerText:
    """A piece of the answer that belongs to no call."""

    text: str


@dataclass(frozen=True, slots=True)
class CallStart:
    """A call begins: its name is known."""

    name: str
    id: str | None = None  # where the format carries one before the arguments


@dataclass(frozen=True, slots=True)
class CallArguments:
    """A piece of the arguments' JSON text."""

    text: str


@dataclass(frozen=True, slots=True)
class CallEnd:
    """The call is over. Its pieces are one JSON value, unless the text broke off within it."""


ToolEvent = AnswerText | CallStart | CallArguments | CallEnd


@dataclass(frozen=True, slots=True)
class WrittenCall:
    """A call to be written; arguments: JSON text of an object."""

    name: str
    arguments: str
    id: str = ""


class ToolParser(Protocol):
    """Reads one answer. Its events are the same however the text is cut into pieces, pieces themselves apart."""

    def push(self, text: str) -> list[ToolEvent]:
        """The events that `text` completes."""
        ...

    def finish(self) -> list[ToolEvent]:
        """The last events: the text has ended, and nothing may be pushed after it."""
        ...


class ToolFormat(Protocol):
    """One way of writing tool calls. Formats are immutable and shared by all requests."""

    @property
    def name(self) -> str:
        """The registry's name, "template" for one found by rendering, or "generic"."""
        ...

    @property
    def marks(self) -> tuple[str, ...]:
        """Texts that may be special tokens, and must not be dropped by the detokenizer."""
        ...

    @property
    def takes_object_arguments(self) -> bool:
        """Whether the template wants the arguments of earlier calls as an object; else as their JSON text."""
        ...

    @property
    def call_id_length(self) -> int | None:
        """The number of letters and digits that the template demands of a call's id; None: ids may be anything."""
        ...

    @property
    def renders_calls(self) -> bool:
        """Whether the template shows earlier calls; else server/tools/history.py writes them into the content."""
        ...

    @property
    def takes_several_calls(self) -> bool:
        """Whether the template shows several calls of one answer; some refuse them, or show the first alone."""
        ...

    def unwritable(self, tool: Tool) -> str | None:
        """The property or value of the tool's schema that a call of this format cannot hold, in words; None: none."""
        ...

    def unenforced(self, tool: Tool) -> list[Location]:
        """Where the tool's schema says what the format's grammar does not enforce; the paths begin in the schema."""
        ...

    def write(self, calls: Sequence[WrittenCall]) -> str:
        """The calls as the model should write them, where no text precedes."""
        ...

    def parser(self, names: Collection[str]) -> ToolParser:
        """A parser for one answer. names: of the request's tools; a call of another name is no call, and stays text.

        Give the schemas too where there are (`{tool.name: tool.parameters for tool in tools}`): formats that write
        arguments without JSON's quotes cannot tell 5 from "5" without them.
        """
        ...

    def grammar(self, builder: GrammarBuilder, tools: Sequence[Tool], *, min_calls: int, is_parallel: bool) -> str:
        """An expression that the whole answer, after any thought, must match.

        min_calls 0: text and calls, each constrained from the moment it begins; without is_parallel one call at most,
        with nothing after it. min_calls 1: nothing but one call, or with is_parallel one or more.
        """
        ...
