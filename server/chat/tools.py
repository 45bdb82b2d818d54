"""Tools of a conversation: their definitions, which of them an answer may call, and which it must call."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from engine.errors import InvalidRequest, UnsupportedParameter
from server.schemas.base import Location, path_text, quote
from server.schemas.tools import NAME_RULE, is_tool_name
from server.structured_outputs.json_schema.preparation import prepare_schema
from server.tools.format import Tool, ToolFormat

# Keywords by which a schema says itself whether it takes other properties than those that it declares.
_SAYS_MORE = frozenset({"additionalProperties", "patternProperties", "$ref", "allOf", "anyOf", "oneOf"})
_NO_ARGUMENTS = {"type": "object", "properties": {}, "additionalProperties": False}


@dataclass(frozen=True, slots=True)
class OfferedTool:
    """A tool that the client offers: a function that it runs.

    fields: further fields for the chat template. paths: field paths in the client's request, where they differ from
    OpenAI's: under "" that of the function, under ".parameters" that of its parameters.
    """

    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    is_strict: bool | None = None
    fields: Mapping[str, Any] = field(default_factory=dict)
    paths: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ToolChoice:
    """The tools that an answer may or must call. names: the allowed tools; None for all. is_single: exactly one call,
    of the named tool.

    path: path of the field with the choice, in OpenAI's API.
    """

    mode: Literal["none", "auto", "required"] = "auto"
    names: tuple[str, ...] | None = None
    is_single: bool = False
    path: str = "tool_choice"


@dataclass(frozen=True, slots=True)
class ToolOffer:
    """The tools of a conversation. is_legacy: they were given as `functions`, and answers use `function_call`."""

    definitions: Sequence[OfferedTool] = ()
    choice: ToolChoice = ToolChoice()
    is_parallel: bool = True
    is_legacy: bool = False

    @property
    def field(self) -> str:
        """The name of the field with the definitions, in OpenAI's API."""
        return "functions" if self.is_legacy else "tools"

    def path(self, index: int) -> str:
        """Return the path of definition number `index` in OpenAI's API."""
        return f"functions[{index}]" if self.is_legacy else f"tools[{index}].function"


@dataclass(frozen=True, slots=True)
class ChatTools:
    """Validated tools, ready for the chat template, the grammar and the parser of the answer.

    definitions: all tools, as the chat template gets them. callable: the tools that this answer may call. ignored:
    paths of schema keywords that are not enforced.
    """

    definitions: list[dict[str, Any]]
    callable: list[Tool]
    must_call: bool
    is_parallel: bool
    ignored: list[str]


def chat_tools(offered: ToolOffer) -> ChatTools | None:
    """Validate the tools, and prepare their schemas. Returns None if there are no tools, or tool_choice is "none".
    Raises InvalidRequest for invalid schemas or names, and for a choice of tools that are not offered."""
    choice, choice_path = offered.choice, offered.choice.path
    if not offered.definitions:
        if choice.mode == "required" or choice.names is not None:
            raise InvalidRequest(
                f"{choice_path} asks for a call, and there are no tools; give tools", param=choice_path
            )
        return None
    names = [definition.name for definition in offered.definitions]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        field = offered.field
        raise InvalidRequest(f"{field} has two tools called {quote(twice)}; give each its own name", param=field)
    if choice.mode == "none":
        return None
    allowed = set(names if choice.names is None else [_known(name, choice_path, names) for name in choice.names])
    ignored: list[str] = []
    tools = [_tool(each, offered.path(index), ignored) for index, each in enumerate(offered.definitions)]
    return ChatTools(
        definitions=[dict(tool.definition) for tool in tools],
        callable=[tool for tool in tools if tool.name in allowed],
        must_call=choice.mode == "required",
        is_parallel=offered.is_parallel and not offered.is_legacy and not choice.is_single,
        ignored=ignored,
    )


def tools_in_format(tools: ChatTools, tool_format: ToolFormat) -> ChatTools:
    """Return the tools, with the schema paths that the tool-call format does not enforce added to `ignored`.

    Raises InvalidRequest for a tool whose calls cannot be written in the format, and UnsupportedParameter for a strict
    tool that the format does not enforce.
    """
    ignored = dict.fromkeys(tools.ignored)
    for tool in tools.callable:
        if (fault := tool_format.describe_unwritable(tool)) is not None:
            raise InvalidRequest(
                f"{tool.path} has {fault}, which calls in the format of this model ({tool_format.name}) cannot hold; "
                "change it",
                param=tool.path,
            )
        for place in tool_format.unenforced_paths(tool):
            path = path_text((tool.path, *_as_given(tool, place)))
            if tool.is_strict:
                raise UnsupportedParameter(
                    f"{path} is not supported under strict: calls in the format of this model ({tool_format.name}) "
                    "are not held to it; change it, or leave strict out to have it ignored",
                    param=path,
                )
            ignored[path] = None
    return replace(tools, ignored=list(ignored))


def _as_given(tool: Tool, place: Location) -> Location:
    """Return the part of `place`, a path in the resolved schema, that exists in the client's schema: up to a $ref."""
    node: Any = tool.definition["function"].get("parameters")
    for size, part in enumerate(place):
        if not isinstance(node, dict) or part not in node:
            return place[:size]
        node = node[part]
    return place


def check_tool_name(name: str, path: str) -> None:
    """Raise InvalidRequest for a name that OpenAI's API does not allow."""
    if not is_tool_name(name):
        raise InvalidRequest(f"{path} is {quote(name)}; it must be {NAME_RULE}", param=path)


def _known(name: str, path: str, names: list[str]) -> str:
    if name not in names:
        known = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
        raise InvalidRequest(f"{path} names {quote(name)}; the request's tools are {known}", param=path)
    return name


def _tool(given: OfferedTool, path: str, ignored: list[str]) -> Tool:
    schema = _NO_ARGUMENTS if given.parameters is None else _closed(given.parameters, f"{path}.parameters")
    prepared = prepare_schema(schema, param=f"{path}.parameters", is_strict=given.is_strict is True)
    ignored += prepared.ignored
    fields = {"name": given.name, "description": given.description, "parameters": given.parameters}
    shown = {name: value for name, value in fields.items() if value is not None}
    definition = {"type": "function", "function": {**shown, **given.fields}}
    return Tool(given.name, prepared.schema, definition, f"{path}.parameters", given.is_strict is True)


def _closed(parameters: dict[str, Any], path: str) -> dict[str, Any]:
    """Return the schema with additionalProperties false, unless the client's schema allows or defines more properties.

    If they were allowed, the model could invent arguments that the function does not have.
    """
    is_closed = "properties" in parameters and not _SAYS_MORE & parameters.keys()
    given = parameters.get("type", "object")
    if given != "object" and not (isinstance(given, list) and "object" in given):
        raise InvalidRequest(f"{path}.type is {quote(given)}; arguments are an object", param=f"{path}.type")
    return {**parameters, "type": "object", **({"additionalProperties": False} if is_closed else {})}
