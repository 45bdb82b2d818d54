"""LongCat: each call is a JSON object between <longcat_tool_call> tags."""

from server.tools.layout import CallField, CallLayout
from server.tools.styles.json_format import JsonFormat

FORMAT = JsonFormat(
    "longcat",
    CallLayout(
        begin="",
        open='<longcat_tool_call>\n{"name": "',
        body=(CallField.NAME, '", "arguments": ', CallField.ARGUMENTS, "}\n</longcat_tool_call>"),
        separator="\n",
        after_text="\n",
    ),
)
