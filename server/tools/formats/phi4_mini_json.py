"""Phi-4-mini: functools and a list of JSON objects. The template drops the calls of earlier answers."""

from server.tools.layout import CallField, CallLayout
from server.tools.styles.json_format import JsonFormat

FORMAT = JsonFormat(
    "phi4_mini_json",
    CallLayout(
        begin="functools[",
        open='{"name": "',
        body=(CallField.NAME, '", "arguments": ', CallField.ARGUMENTS, "}"),
        separator=", ",
        end="]",
    ),
    renders_calls=False,
)
