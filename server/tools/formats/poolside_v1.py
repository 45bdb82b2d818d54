"""Laguna: the name, then alternately <arg_key> and <arg_value>."""

from server.tools.layout import CallField, CallLayout
from server.tools.styles.tagged_format import TaggedFormat
from server.tools.styles.tagged_layout import TaggedLayout

FORMAT = TaggedFormat(
    "poolside_v1",
    TaggedLayout(
        CallLayout(
            begin="",
            open="<tool_call>",
            body=(CallField.NAME, "\n", CallField.ARGUMENTS, "</tool_call>"),
            separator="\n",
            lead="\n",
            after_text="\n",
        ),
        open_key="<arg_key>",
        open_value="</arg_key>\n<arg_value>",
        close_value="</arg_value>\n",
    ),
)
