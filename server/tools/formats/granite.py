"""Granite 3: <|tool_call|> and a list of JSON objects, which its template leaves out of earlier answers."""

from server.tools.layout import CallLayout, Slot
from server.tools.layout_format import LayoutFormat

FORMAT = LayoutFormat(
    "granite",
    CallLayout(
        begin="<|tool_call|>[",
        open='{"name": "',
        body=(Slot.NAME, '", "arguments": ', Slot.ARGUMENTS, "}"),
        separator=", ",
        end="]",
    ),
    other_triggers=("<tool_call>",),
    renders_calls=False,
)
