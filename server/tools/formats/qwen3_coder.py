"""Qwen3-Coder: <function=NAME> with a <parameter=KEY> for each argument."""

from server.tools.layout import CallField, CallLayout
from server.tools.styles.tagged_format import TaggedFormat
from server.tools.styles.tagged_layout import TaggedLayout

FORMAT = TaggedFormat(
    "qwen3_coder",
    TaggedLayout(
        CallLayout(
            begin="",
            open="<tool_call>\n<function=",
            body=(CallField.NAME, ">\n", CallField.ARGUMENTS, "</function>\n</tool_call>"),
            separator="\n",
            after_text="\n\n",
        ),
        open_key="<parameter=",
        open_value=">\n",
        close_value="\n</parameter>\n",
    ),
)
