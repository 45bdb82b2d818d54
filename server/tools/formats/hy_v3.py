"""Hy3: the name, a separator, then alternately <arg_key> and <arg_value>, in tags with the suffix :opensource."""

from server.tools.layout import CallField, CallLayout
from server.tools.styles.tagged_format import TaggedFormat
from server.tools.styles.tagged_layout import TaggedLayout

FORMAT = TaggedFormat(
    "hy_v3",
    TaggedLayout(
        CallLayout(
            begin="<tool_calls:opensource>\n",
            open="<tool_call:opensource>",
            body=(CallField.NAME, "<tool_sep:opensource>\n", CallField.ARGUMENTS, "</tool_call:opensource>"),
            separator="\n",
            end="\n</tool_calls:opensource>",
            after_text="",
        ),
        open_key="<arg_key:opensource>",
        open_value="</arg_key:opensource>\n<arg_value:opensource>",
        close_value="</arg_value:opensource>\n",
    ),
)
