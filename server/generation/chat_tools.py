"""ChatTools: what a chat may call and what it must, from the request's fields."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from engine.errors import InvalidRequest, UnsupportedParameter
from server.schemas.base import Location, path_text, quote
from server.schemas.chat import ChatTemplateFields
from server.schemas.tools import AllowedToolsChoice, FunctionDefinition, FunctionName, NamedTool
from server.structured_outputs.json_schema.preparation import prepare_schema
from server.tools.format import Tool, ToolFormat

_SAYS_MORE = frozenset({"additionalProperties", "patternProperties", "$ref", "allOf", "anyOf", "oneOf"})
_Choice = str | NamedTool | AllowedToolsChoice | None
_NO_ARGUMENTS = {"type": "object", "properties": {}, "additionalProperties": False}


@dataclass(frozen=True, slots=True)
class ChatTools:
    """definitions: all tools, as the template shows them. callable: those that this answer may call."""

    definitions: list[dict[str, Any]]
    callable: list[Tool]
    must_call: bool
    is_parallel: bool
    is_legacy: bool  # the request has functions, and expects a function_call
    ignored: list[str]  # paths of what is given and not enforced


def chat_tools(body: ChatTemplateFields) -> ChatTools | None:
    """None where there are no tools, or none may be called. Raises InvalidRequest."""
    given, path = _given(body)
    choice, choice_path = _choice(body)
    if not given:
        if choice not in (None, "none", "auto"):
            raise InvalidRequest(
                f"{choice_path} asks for a call, and there are no tools; give tools", param=choice_path
            )
        return None
    names = [function.name for function in given]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InvalidRequest(f"{path} has two tools called {quote(twice)}; give each its own name", param=path)
    if choice == "none":
        return None
    allowed, must_call = _allowed(choice, choice_path, names)
    ignored: list[str] = []
    tools = [
        _tool(function, f"{path}[{index}]{'.function' if path == 'tools' else ''}", ignored)
        for index, function in enumerate(given)
    ]
    return ChatTools(
        [dict(tool.definition) for tool in tools],
        [tool for tool in tools if tool.name in allowed],
        must_call,
        body.parallel_tool_calls is not False and path == "tools" and not isinstance(choice, NamedTool),
        path == "functions",
        ignored,
    )


def tools_in_format(tools: ChatTools, tool_format: ToolFormat) -> ChatTools:
    """The tools, with what this way of writing calls does not enforce among `ignored`. Raises InvalidRequest for a
    tool that it cannot write a call of, and UnsupportedParameter for a strict one that it does not enforce."""
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
    """The place in the client's schema, as far as it leads there; references lead elsewhere."""
    node: Any = tool.definition["function"].get("parameters")
    for size, part in enumerate(place):
        if not isinstance(node, dict) or part not in node:
            return place[:size]
        node = node[part]
    return place


def _given(body: ChatTemplateFields) -> tuple[Sequence[FunctionDefinition], str]:
    """The functions, and the field that they come in."""
    if body.tools and body.functions:
        raise InvalidRequest("functions is the old name of tools, and both are given; give one", param="functions")
    if body.functions:
        return body.functions, "functions"
    return [tool.function for tool in body.tools or []], "tools"


def _choice(body: ChatTemplateFields) -> tuple[_Choice, str]:
    """What may be called, and the field that says so."""
    if body.function_call is None:
        return body.tool_choice, "tool_choice"
    if body.tool_choice is not None:
        raise InvalidRequest(
            "function_call is the old name of tool_choice, and both are given; give one", param="function_call"
        )
    if isinstance(body.function_call, FunctionName):
        return NamedTool(type="function", function=body.function_call), "function_call"
    return body.function_call, "function_call"


def _allowed(choice: _Choice, path: str, names: list[str]) -> tuple[set[str], bool]:
    """The tools that may be called, and whether one must be."""
    if isinstance(choice, NamedTool):
        return {_known(choice.function.name, path, names)}, True
    if isinstance(choice, AllowedToolsChoice):
        allowed = choice.allowed_tools
        return {_known(tool.function.name, path, names) for tool in allowed.tools}, allowed.mode == "required"
    return set(names), choice == "required"


def _known(name: str, path: str, names: list[str]) -> str:
    if name not in names:
        known = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
        raise InvalidRequest(f"{path} names {quote(name)}; the request's tools are {known}", param=path)
    return name


def _tool(function: FunctionDefinition, path: str, ignored: list[str]) -> Tool:
    schema = _NO_ARGUMENTS if function.parameters is None else _closed(function.parameters, f"{path}.parameters")
    prepared = prepare_schema(schema, param=f"{path}.parameters", is_strict=function.strict is True)
    ignored += prepared.ignored
    fields = {"name": function.name, "description": function.description, "parameters": function.parameters}
    shown = {name: value for name, value in fields.items() if value is not None}
    definition = {"type": "function", "function": {**shown, **function.extra}}
    return Tool(function.name, prepared.schema, definition, f"{path}.parameters", function.strict is True)


def _closed(parameters: dict[str, Any], path: str) -> dict[str, Any]:
    """The schema of an object, whatever else it takes, with the properties that are declared and no others, unless it
    says more: a function that is called with an argument that it does not have fails."""
    is_closed = "properties" in parameters and not _SAYS_MORE & parameters.keys()
    given = parameters.get("type", "object")
    if given != "object" and not (isinstance(given, list) and "object" in given):
        raise InvalidRequest(f"{path}.type is {quote(given)}; arguments are an object", param=f"{path}.type")
    return {**parameters, "type": "object", **({"additionalProperties": False} if is_closed else {})}
