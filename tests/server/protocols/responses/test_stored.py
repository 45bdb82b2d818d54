"""Items as they are stored: read again, they make the same messages."""

from typing import Any

import pytest

from server.protocols.responses.items import messages_of_items
from server.protocols.responses.stored import input_objects, items_of

pytestmark = pytest.mark.fast

ITEMS: list[dict[str, Any]] = [
    {"role": "user", "content": "hi"},
    {"role": "assistant", "content": "Hello."},
    {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]},
    {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"},
    {"type": "function_call_output", "call_id": "c1", "output": "5"},
    {"type": "custom_tool_call", "call_id": "c2", "name": "g", "input": "x"},
    {"type": "custom_tool_call_output", "call_id": "c2", "output": [{"type": "input_text", "text": "6"}]},
]


def test_stored_items_make_the_same_messages() -> None:
    items = items_of(ITEMS)
    again = items_of(input_objects(items))
    expected, _ = messages_of_items(items)
    assert len(expected) == 6  # the assistant's answer and the thought after it are two
    assert messages_of_items(again) == (expected, [])


def test_every_stored_item_has_an_id_of_its_kind_and_a_status() -> None:
    objects = input_objects(items_of(ITEMS))
    assert [item["id"].partition("_")[0] for item in objects] == ["msg", "msg", "rs", "fc", "fco", "ctc", "ctco"]
    assert {item["status"] for item in objects} == {"completed"}
    assert objects[0]["content"] == [{"type": "input_text", "text": "hi"}]
    assert objects[1]["content"] == [{"annotations": [], "type": "output_text", "text": "Hello."}]
    assert input_objects(items_of([{"id": "msg_1", **ITEMS[0]}]))[0]["id"] == "msg_1"
