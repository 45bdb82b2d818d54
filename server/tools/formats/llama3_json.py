"""Llama 3.1 and later: the whole answer is one JSON object, sometimes after <|python_tag|>."""

from server.tools.layout import CallField, CallLayout
from server.tools.styles.json_format import JsonFormat

FORMAT = JsonFormat(
    "llama3_json",
    CallLayout(
        begin="",
        open='{"name": "',
        body=(CallField.NAME, '", "parameters": ', CallField.ARGUMENTS, "}"),
        separator="; ",
        after_text=None,
        takes_several=False,
    ),
    other_triggers=("<|python_tag|>",),
    takes_several_calls=False,
)
