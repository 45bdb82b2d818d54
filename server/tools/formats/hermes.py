"""Hermes and Qwen: <tool_call> around a JSON object, a pair of tags for each call."""

from server.tools.layout import CallLayout, Slot
from server.tools.layout_format import LayoutFormat

FORMAT = LayoutFormat(
    "hermes",
    CallLayout(
        begin="",
        open='<tool_call>\n{"name": "',
        body=(Slot.NAME, '", "arguments": ', Slot.ARGUMENTS, "}\n</tool_call>"),
        separator="\n",
        after_text="\n",
    ),
)
