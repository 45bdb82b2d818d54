"""Hermes and Qwen: each call is a JSON object between <tool_call> tags."""

from server.tools.layout import CallField, CallLayout
from server.tools.styles.json_format import JsonFormat

FORMAT = JsonFormat(
    "hermes",
    CallLayout(
        begin="",
        open='<tool_call>\n{"name": "',
        body=(CallField.NAME, '", "arguments": ', CallField.ARGUMENTS, "}\n</tool_call>"),
        separator="\n",
        after_text="\n",
    ),
)
