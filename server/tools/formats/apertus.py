"""Apertus: a list of objects whose only key is the name."""

from server.tools.layout import CallField, CallLayout
from server.tools.styles.json_format import JsonFormat

FORMAT = JsonFormat(
    "apertus",
    CallLayout(
        begin="<|tools_prefix|>[",
        open='{"',
        body=(CallField.NAME, '": ', CallField.ARGUMENTS, "}"),
        separator=", ",
        end="]<|tools_suffix|>",
        after_text="",
    ),
)
