"""ToolFormat: one way of writing tool calls, with the parser that reads it and the grammar that enforces it."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from server.schemas.base import Location
from server.structured_outputs.grammar import GrammarBuilder

Schema = Mapping[str, Any] | bool  # a JSON schema, prepared for GrammarBuilder.json


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool that the model may call."""

    name: str
    parameters: Schema
    definition: Mapping[str, Any]  # as the client sent it, for the template
    path: str = ""  # where the request has the parameters
    is_strict: bool = False  # refuse a schema that is not enforced completely


@dataclass(frozen=True, slots=True)
class AnswerText:
    """A piece of the answer outside of all calls."""

    text: str


@dataclass(frozen=True, slots=True)
class CallStart:
    """The start of a call, sent when its name is known."""

    name: str
    id: str | None = None  # if the format has an id before the arguments


@dataclass(frozen=True, slots=True)
class CallArguments:
    """A piece of the arguments' JSON text."""

    text: str


@dataclass(frozen=True, slots=True)
class CallEnd:
    """The end of a call. The pieces of its arguments are one JSON value, unless the text broke off within them."""


ToolEvent = AnswerText | CallStart | CallArguments | CallEnd


@dataclass(frozen=True, slots=True)
class WrittenCall:
    """A call to write. `arguments` is the JSON text of an object."""

    name: str
    arguments: str
    id: str = ""


class ToolParser(Protocol):
    """The parser of one answer. How the text is cut into pieces changes nothing but the cuts between its events."""

    def push(self, text: str) -> list[ToolEvent]:
        """Return the events that `text` completes."""
        ...

    def finish(self) -> list[ToolEvent]:
        """Return the last events of the answer. Nothing may be pushed after this call."""
        ...


class ToolFormat(Protocol):
    """A way of writing tool calls. Formats are immutable and shared by all requests."""

    @property
    def name(self) -> str:
        """Name in the registry, or "template" for a format that was detected by rendering the chat template."""
        ...

    @property
    def marks(self) -> tuple[str, ...]:
        """Texts that may be special tokens, which the detokenizer must keep."""
        ...

    @property
    def takes_object_arguments(self) -> bool:
        """Whether the template takes the arguments of earlier calls as an object, not as JSON text."""
        ...

    @property
    def call_id_length(self) -> int | None:
        """Number of letters and digits that the template requires in a call's id; None if it takes any id."""
        ...

    @property
    def renders_calls(self) -> bool:
        """Whether the template renders earlier calls. If not, server/tools/history.py writes them into the content."""
        ...

    @property
    def takes_several_calls(self) -> bool:
        """Whether the template renders several calls of one answer. Some refuse them, or render only the first."""
        ...

    def describe_unwritable(self, tool: Tool, /) -> str | None:
        """Return a property or value of the tool's schema, in words, that this format cannot write, or None."""
        ...

    def unenforced_paths(self, tool: Tool, /) -> list[Location]:
        """Return the paths, within the tool's schema, of the keywords that the format's grammar does not enforce."""
        ...

    def write(self, calls: Sequence[WrittenCall]) -> str:
        """Return the text of the calls as the model should write them if no text precedes them."""
        ...

    def parser(self, names: Collection[str]) -> ToolParser:
        """Return a parser for one answer. A call of a tool that is not in `names` stays text.

        names: names of the request's tools. Pass a mapping of the names to the schemas of the arguments if these are
        known: formats that write arguments without JSON's quotes need the schemas to distinguish 5 from "5".
        """
        ...

    def grammar(self, builder: GrammarBuilder, tools: Sequence[Tool], *, min_calls: int, is_parallel: bool) -> str:
        """Return an expression that the whole answer, without its reasoning, must match.

        With min_calls 0, the answer is text and any number of calls; without is_parallel, text and at most one call,
        with nothing after it. With min_calls 1, the answer is one call and nothing else; with is_parallel, one or
        more calls.
        """
        ...


@dataclass(frozen=True, slots=True)
class FormatBase:
    """Defaults of a ToolFormat, for arguments in JSON, which can hold and enforce every schema."""

    name: str
    takes_object_arguments: bool = field(default=True, kw_only=True)
    call_id_length: int | None = field(default=None, kw_only=True)
    renders_calls: bool = field(default=True, kw_only=True)
    takes_several_calls: bool = field(default=True, kw_only=True)

    def describe_unwritable(self, _tool: Tool, /) -> str | None:
        return None

    def unenforced_paths(self, _tool: Tool, /) -> list[Location]:
        return []
