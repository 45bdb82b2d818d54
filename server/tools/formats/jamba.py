"""Jamba: a list of JSON objects in <tool_calls>, each on a line."""

from server.tools.layout import CallField, CallLayout
from server.tools.styles.json_format import JsonFormat

FORMAT = JsonFormat(
    "jamba",
    CallLayout(
        begin="<tool_calls>[",
        open='\n    {"name": "',
        body=(CallField.NAME, '", "arguments": ', CallField.ARGUMENTS, "}"),
        separator=",",
        end="\n]</tool_calls>",
    ),
)
