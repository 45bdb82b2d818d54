"""Step 3.5: <function=NAME> with a <parameter=KEY> for each argument."""

from server.tools.layout import CallField, CallLayout
from server.tools.styles.tagged_format import TaggedFormat
from server.tools.styles.tagged_layout import TaggedLayout

FORMAT = TaggedFormat(
    "step3p5",
    TaggedLayout(
        CallLayout(
            begin="",
            open="<tool_call>\n<function=",
            body=(CallField.NAME, ">\n", CallField.ARGUMENTS, "</function>\n</tool_call>"),
            after_text="",
        ),
        open_key="<parameter=",
        open_value=">\n",
        close_value="\n</parameter>\n",
    ),
)
