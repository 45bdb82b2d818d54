"""Granite 3: <|tool_call|> and a list of JSON objects. The template drops the calls of earlier answers."""

from server.tools.layout import CallField, CallLayout
from server.tools.styles.json_format import JsonFormat

FORMAT = JsonFormat(
    "granite",
    CallLayout(
        begin="<|tool_call|>[",
        open='{"name": "',
        body=(CallField.NAME, '", "arguments": ', CallField.ARGUMENTS, "}"),
        separator=", ",
        end="]",
    ),
    other_triggers=("<tool_call>",),
    renders_calls=False,
)
