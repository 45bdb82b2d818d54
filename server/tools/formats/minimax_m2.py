"""MiniMax M2: <invoke name="NAME"> with a <parameter name="KEY"> for each argument."""

from server.tools.layout import CallField, CallLayout
from server.tools.styles.tagged_format import TaggedFormat
from server.tools.styles.tagged_layout import TaggedLayout

FORMAT = TaggedFormat(
    "minimax_m2",
    TaggedLayout(
        CallLayout(
            begin="<minimax:tool_call>\n",
            open='<invoke name="',
            body=(CallField.NAME, '">\n', CallField.ARGUMENTS, "</invoke>"),
            separator="\n",
            end="\n</minimax:tool_call>",
            after_text="\n",
        ),
        open_key='<parameter name="',
        open_value='">',
        close_value="</parameter>\n",
    ),
)
