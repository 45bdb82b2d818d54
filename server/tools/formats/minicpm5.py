"""MiniCPM 5: <function name="NAME"> with a <param name="KEY"> for each argument."""

from server.tools.layout import CallField, CallLayout
from server.tools.styles.tagged_format import TaggedFormat
from server.tools.styles.tagged_layout import TaggedLayout

FORMAT = TaggedFormat(
    "minicpm5",
    TaggedLayout(
        CallLayout(
            begin="",
            open='<function name="',
            body=(CallField.NAME, '">', CallField.ARGUMENTS, "</function>"),
            separator="\n",
            after_text="\n",
        ),
        open_key='<param name="',
        open_value='">',
        close_value="</param>",
    ),
)
