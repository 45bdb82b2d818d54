"""Hermes and Qwen: each call is a JSON object between <tool_call> tags."""

from server.tools.layout import CallField, CallLayout
from server.tools.layout_format import LayoutFormat

FORMAT = LayoutFormat(
    "hermes",
    CallLayout(
        begin="",
        open='<tool_call>\n{"name": "',
        body=(CallField.NAME, '", "arguments": ', CallField.ARGUMENTS, "}\n</tool_call>"),
        separator="\n",
        after_text="\n",
    ),
)
