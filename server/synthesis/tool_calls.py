"""Tools of a synthesis: their definitions, and whether calls of them are valid."""

from collections.abc import Sequence
from typing import Any

import msgspec

from engine.errors import InvalidRequest
from server.chat.openai_fields import offered_tools
from server.chat.tools import chat_tools
from server.data.lines import FaultyData
from server.schemas.base import validate
from server.schemas.chat import ToolFields
from server.tools.format import Tool
from server.tools.reading.argument_checks import json_fits


class NamedArguments(msgspec.Struct):
    name: str
    arguments: str  # JSON


class ToolCall(msgspec.Struct):
    """A call, as answers and training lines have it."""

    id: str
    function: NamedArguments
    type: str = "function"


def read_tool(value: Any) -> dict[str, Any]:
    """Return the definition of a tool: {"type": "function", "function": {...}}, or only its function. Raises
    FaultyData."""
    function = value.get("function") if isinstance(value, dict) and value.get("type") == "function" else value
    tool = {"type": "function", "function": function}
    try:
        _prepared([tool])
    except InvalidRequest as error:
        raise FaultyData(f"it is not the definition of a tool: {error}") from None
    return tool


def calls_fault(calls: Sequence[ToolCall], tools: Sequence[dict[str, Any]]) -> str | None:
    """Return the reason for which calls of `tools` are unusable, or None."""
    if not calls:
        return "no tool call"
    known = {tool.name: tool.parameters for tool in _prepared(tools)}
    for call in calls:
        if call.function.name not in known:
            return "calls a tool that is not offered"
        try:
            fits = json_fits(call.function.arguments, known[call.function.name])
        except ValueError:
            return "arguments are not valid JSON"
        if not fits:
            return "arguments do not match the tool's schema"
    return None


def _prepared(tools: Sequence[dict[str, Any]]) -> list[Tool]:
    prepared = chat_tools(offered_tools(validate(ToolFields, {"tools": list(tools)})))
    return [] if prepared is None else prepared.callable
