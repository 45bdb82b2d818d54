"""Conversion of items to the JSON objects that are stored and listed, each with an id, and back."""

from collections.abc import Sequence
from typing import Any

from server.protocols.responses.objects import new_id
from server.schemas.base import validate
from server.schemas.response_items import InputItem, MessageItem, StoredItems

_PREFIXES = {
    "message": "msg",
    "reasoning": "rs",
    "function_call": "fc",
    "function_call_output": "fco",
    "custom_tool_call": "ctc",
    "custom_tool_call_output": "ctco",
}


def input_objects(items: Sequence[InputItem]) -> list[dict[str, Any]]:
    """Return the items of a request as objects. An item without an id gets one, and content becomes a list of parts."""
    return [_object(item) for item in items]


def _object(item: InputItem) -> dict[str, Any]:
    given = item.model_dump(exclude_unset=True)
    kind = str(item.type)
    defaults: dict[str, Any] = {"id": new_id(_PREFIXES.get(kind, "item")), "type": kind, "status": "completed"}
    if isinstance(item, MessageItem) and item.role == "assistant":
        parts = [{**part, "type": part["type"].replace("input_", "output_")} for part in given["content"]]
        given["content"] = [{"annotations": [], **part} if "text" in part else part for part in parts]
    return {**defaults, **{name: value for name, value in given.items() if value is not None}}


def items_of(objects: Sequence[dict[str, Any]]) -> list[InputItem]:
    """Return stored objects, from requests or responses, as items for `translate_response`."""
    return validate(StoredItems, {"items": list(objects)}).items
