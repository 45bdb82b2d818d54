"""ToolTable: a request's tools as functions for the model, and the tool behind each function."""

from dataclasses import dataclass, field
from typing import Any

from engine.errors import InvalidRequest, UnsupportedParameter
from server.chat.tools import OfferedTool, ToolChoice, check_tool_name
from server.protocols.responses.custom_input import FIELD, parameters_of
from server.schemas.base import quote
from server.schemas.response_tools import (
    AllowedChoice,
    CustomTool,
    FunctionTool,
    GrammarFormat,
    HostedTool,
    NamedChoice,
    NamespaceTool,
)
from server.schemas.responses import PromptFields
from server.schemas.tools import MAX_TOOLS
from server.structured_outputs.languages.lark_patterns import pattern_of_lark
from server.structured_outputs.languages.patterns import checked_construct

_SEPARATOR = "__"


def chat_name(name: str, namespace: str | None) -> str:
    """Return the name of a tool's function for the model: the tool's name, after its namespace if it has one."""
    if not namespace:
        return name
    return namespace + ("" if namespace.endswith(_SEPARATOR) else _SEPARATOR) + name


@dataclass(frozen=True, slots=True)
class CalledTool:
    """The client's tool behind a function that the model sees."""

    name: str
    namespace: str | None = None
    is_custom: bool = False


@dataclass(slots=True)
class ToolTable:
    """Functions for the model. called: the client's tools by function name. ignored: paths of tools that are not
    offered to the model, and of formats that are not enforced."""

    definitions: list[OfferedTool] = field(default_factory=list)
    called: dict[str, CalledTool] = field(default_factory=dict)
    ignored: list[str] = field(default_factory=list)

    def add(self, tool: FunctionTool | CustomTool, path: str, namespace: NamespaceTool | None) -> None:
        space = None if namespace is None else namespace.name
        name = chat_name(tool.name, space)
        if name in self.called:
            raise InvalidRequest(f"{path} is the second tool called {quote(name)}; give each its own name", param=path)
        check_tool_name(name, f"{path}.name")
        if len(self.definitions) == MAX_TOOLS:
            raise InvalidRequest(f"tools has more than {MAX_TOOLS} tools; give fewer", param="tools")
        self.called[name] = CalledTool(tool.name, space, isinstance(tool, CustomTool))
        self.ignored += [f"{path}.{extra}" for extra in tool.extra]
        if isinstance(tool, CustomTool):
            self.definitions.append(self._custom(tool, name, path))
        else:
            self.definitions.append(OfferedTool(name, tool.description, tool.parameters, tool.strict, paths={"": path}))

    def _custom(self, tool: CustomTool, name: str, path: str) -> OfferedTool:
        described = [tool.description] if tool.description else []
        described.append(f"Its only argument, {FIELD}, is the text that the tool is given, as it is.")
        pattern = None
        if isinstance(tool.format, GrammarFormat):
            kind = "regular expression" if tool.format.syntax == "regex" else "Lark grammar"
            described.append(f"That text matches this {kind}:\n{tool.format.definition}")
            # A pattern can be enforced inside JSON's escapes, a grammar cannot.
            if tool.format.syntax == "regex":
                pattern = tool.format.definition
                # Checked alone: within the larger pattern it could mean something else.
                checked_construct(pattern, f"{path}.format.definition")
            else:
                pattern = pattern_of_lark(tool.format.definition)
            if pattern is None:
                self.ignored.append(f"{path}.format")
        paths = {"": path, f".parameters.properties.{FIELD}.pattern": f"{path}.format.definition"}
        return OfferedTool(name, "\n".join(described), parameters_of(pattern), paths=paths)


def tool_table(body: PromptFields) -> ToolTable:
    """Return the table of a body's tools. Raises InvalidRequest for two tools of one name, and for an invalid regex."""
    table = ToolTable()
    for index, tool in enumerate(body.tools or []):
        path = f"tools[{index}]"
        match tool:
            case HostedTool():
                table.ignored.append(path)
            case NamespaceTool(tools=members):
                table.ignored += [f"{path}.{name}" for name in tool.extra]
                for position, member in enumerate(members):
                    table.add(member, f"{path}.tools[{position}]", tool)
            case _:
                table.add(tool, path, None)
    return table


def chat_choice(body: PromptFields) -> ToolChoice:
    """Translate tool_choice. Raises InvalidRequest for an allowed tool without a name, and UnsupportedParameter if no
    allowed tool is a function or custom tool."""
    match body.tool_choice:
        case NamedChoice(name=name, namespace=namespace):
            return ToolChoice("required", (chat_name(name, namespace),), is_single=True)
        case AllowedChoice(mode=mode, tools=tools):
            return ToolChoice(mode, _allowed(tools))
        case None:
            return ToolChoice()
        case mode:
            return ToolChoice(mode)


def _allowed(tools: list[dict[str, Any]]) -> tuple[str, ...]:
    """Return the function names of the allowed tools."""
    path = "tool_choice.tools"
    names = []
    for index, tool in enumerate(tools):
        if tool.get("type") not in ("function", "custom"):
            continue  # a tool that this server does not run cannot be called
        name, namespace = tool.get("name"), tool.get("namespace")
        if not isinstance(name, str) or not isinstance(namespace, str | None):
            raise InvalidRequest(f"{path}[{index}] has no name; it is required", param=f"{path}[{index}].name")
        names.append(chat_name(name, namespace))
    if not names:
        raise UnsupportedParameter(f"{path} has no function and no custom tool; this server runs no others", param=path)
    return tuple(names)
