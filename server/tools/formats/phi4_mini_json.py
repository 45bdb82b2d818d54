"""Phi-4-mini: functools and a list of JSON objects, which its template leaves out of earlier answers."""

from server.tools.layout import CallLayout, Slot
from server.tools.layout_format import LayoutFormat

FORMAT = LayoutFormat(
    "phi4_mini_json",
    CallLayout(
        begin="functools[",
        open='{"name": "',
        body=(Slot.NAME, '", "arguments": ', Slot.ARGUMENTS, "}"),
        separator=", ",
        end="]",
    ),
    renders_calls=False,
)
