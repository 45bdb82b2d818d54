"""DeepSeek V4: as DeepSeek V3.2, within <｜DSML｜tool_calls>."""

from server.tools.layout import CallField, CallLayout
from server.tools.styles.tagged_format import TaggedFormat
from server.tools.styles.tagged_layout import TaggedLayout

FORMAT = TaggedFormat(
    "deepseek_v4",
    TaggedLayout(
        CallLayout(
            begin="<｜DSML｜tool_calls>\n",
            open='<｜DSML｜invoke name="',
            body=(CallField.NAME, '">\n', CallField.ARGUMENTS, "</｜DSML｜invoke>"),
            separator="\n",
            end="\n</｜DSML｜tool_calls>",
            lead="\n\n",
            after_text="\n\n",
        ),
        open_key='<｜DSML｜parameter name="',
        open_value='" string="false">',
        close_value="</｜DSML｜parameter>\n",
        open_string='" string="true">',
    ),
)
