"""MiniMax M1: JSON objects, each on a line, in <tool_calls>. The template drops the text before calls."""

from server.tools.layout import CallField, CallLayout
from server.tools.styles.json_format import JsonFormat

FORMAT = JsonFormat(
    "minimax",
    CallLayout(
        begin="<tool_calls>\n",
        open='{"name": "',
        body=(CallField.NAME, '", "arguments": ', CallField.ARGUMENTS, "}"),
        separator="\n",
        end="\n</tool_calls>",
        after_text=None,
    ),
)
