"""DeepSeek V3.2: <｜DSML｜invoke name="NAME"> with parameters that say whether they are strings."""

from server.tools.layout import CallField, CallLayout
from server.tools.styles.tagged_format import TaggedFormat
from server.tools.styles.tagged_layout import TaggedLayout

FORMAT = TaggedFormat(
    "deepseek_v32",
    TaggedLayout(
        CallLayout(
            begin="<｜DSML｜function_calls>\n",
            open='<｜DSML｜invoke name="',
            body=(CallField.NAME, '">\n', CallField.ARGUMENTS, "</｜DSML｜invoke>"),
            separator="\n",
            end="\n</｜DSML｜function_calls>",
            after_text="\n\n",
        ),
        open_key='<｜DSML｜parameter name="',
        open_value='" string="false">',
        close_value="</｜DSML｜parameter>\n",
        open_string='" string="true">',
    ),
)
