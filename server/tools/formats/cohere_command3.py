"""Command R7B, A and later: a numbered list of JSON objects. The template drops the text before calls."""

from server.tools.layout import CallField, CallLayout
from server.tools.styles.json_format import JsonFormat

FORMAT = JsonFormat(
    "cohere_command3",
    CallLayout(
        begin="<|START_ACTION|>[",
        open='\n    {"tool_call_id": "',
        body=(CallField.INDEX, '", "tool_name": "', CallField.NAME, '", "parameters": ', CallField.ARGUMENTS, "}"),
        separator=",",
        end="\n]<|END_ACTION|>",
        after_text=None,
    ),
)
