"""GLM 4.7 and 5: the name, then alternately <arg_key> and <arg_value>, without line breaks."""

from server.tools.layout import CallField, CallLayout
from server.tools.styles.tagged_format import TaggedFormat
from server.tools.styles.tagged_layout import TaggedLayout

FORMAT = TaggedFormat(
    "glm47",
    TaggedLayout(
        CallLayout(
            begin="",
            open="<tool_call>",
            body=(CallField.NAME, CallField.ARGUMENTS, "</tool_call>"),
            after_text="",
        ),
        open_key="<arg_key>",
        open_value="</arg_key><arg_value>",
        close_value="</arg_value>",
    ),
)
