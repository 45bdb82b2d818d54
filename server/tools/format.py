"""ToolFormat: one way of writing tool calls, with the parser that reads it and the grammar that enforces it."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from server.schemas.base import Location
from server.structured_outputs.grammar import GrammarBuilder
from server.tools.reading.parser import ToolParser

Schema = Mapping[str, Any] | bool  # a JSON schema, prepared for GrammarBuilder.json


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool that the model may call."""

    name: str
    parameters: Schema
    definition: Mapping[str, Any]  # as the client sent it, for the template
    path: str = ""  # path of the parameters in the request
    is_strict: bool = False  # refuse a schema that is not enforced completely


@dataclass(frozen=True, slots=True)
class WrittenCall:
    """A tool call to write as text. `arguments` is the JSON text of an object."""

    name: str
    arguments: str
    id: str = ""


@dataclass(frozen=True, slots=True)
class ToolFormat(ABC):
    """A way of writing tool calls as text. By default it can express and enforce every schema, as JSON can.

    Formats are immutable and shared by all requests. name: its name in the registry, or "template" for a format that
    was detected by rendering the chat template. takes_object_arguments: whether the template takes the arguments of
    earlier calls as an object, not as JSON text. call_id_length: number of letters and digits that the template
    requires in a call's id; None if it takes any id. renders_calls: whether the template renders earlier calls; if not,
    server/tools/history.py writes them into the content. takes_several_calls: whether the template renders several
    calls of one answer; some templates refuse them, or render only the first.
    """

    name: str
    takes_object_arguments: bool = field(default=True, kw_only=True)
    call_id_length: int | None = field(default=None, kw_only=True)
    renders_calls: bool = field(default=True, kw_only=True)
    takes_several_calls: bool = field(default=True, kw_only=True)

    @property
    @abstractmethod
    def marks(self) -> tuple[str, ...]:
        """Texts that may be special tokens, which the detokenizer must keep."""

    def answer_header(self, _prompt: str, /) -> str:
        """Return the text that begins an answer without calls after this prompt, and is not part of it."""
        return ""

    def describe_unwritable(self, _tool: Tool, /) -> str | None:
        """Describe, for an error, a name or value in the schema that this format cannot write; None without one."""
        return None

    def unenforced_paths(self, _tool: Tool, /) -> list[Location]:
        """Return the paths, within the tool's schema, of the keywords that the format's grammar does not enforce."""
        return []

    @abstractmethod
    def write(self, calls: Sequence[WrittenCall]) -> str:
        """Return the text of the calls, as the model should write an answer of only these calls."""

    @abstractmethod
    def parser(self, names: Collection[str]) -> ToolParser:
        """Return a parser for one answer. A call of a tool that is not in `names` stays text.

        names: names of the request's tools. Pass a mapping of the names to the schemas of the arguments if these are
        known: formats that write arguments without JSON's quotes need the schemas to distinguish 5 from "5".
        """

    @abstractmethod
    def grammar(self, builder: GrammarBuilder, tools: Sequence[Tool], *, min_calls: int, is_parallel: bool) -> str:
        """Return a grammar expression that the whole answer, without its reasoning, must match.

        With min_calls 0, the answer is text and any number of calls; without is_parallel, text and at most one call,
        with nothing after it. With min_calls 1, the answer is one call and nothing else; with is_parallel, one or
        more calls.
        """
