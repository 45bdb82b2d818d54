"""Hunyuan A13B: a list of JSON objects in <tool_calls>."""

from server.tools.layout import CallField, CallLayout
from server.tools.styles.json_format import JsonFormat

FORMAT = JsonFormat(
    "hunyuan_a13b",
    CallLayout(
        begin="<tool_calls>[",
        open='{"name": "',
        body=(CallField.NAME, '", "arguments": ', CallField.ARGUMENTS, "}"),
        separator=", ",
        end="]</tool_calls>",
    ),
)
