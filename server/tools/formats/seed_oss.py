"""Seed-OSS: <function=NAME> with a <parameter=KEY> for each argument, in <seed:tool_call>."""

from server.tools.layout import CallField, CallLayout
from server.tools.styles.tagged_format import TaggedFormat
from server.tools.styles.tagged_layout import TaggedLayout

FORMAT = TaggedFormat(
    "seed_oss",
    TaggedLayout(
        CallLayout(
            begin="",
            open="<seed:tool_call>\n<function=",
            body=(CallField.NAME, ">\n", CallField.ARGUMENTS, "</function>\n</seed:tool_call>"),
            separator="\n",
            after_text="\n\n",
        ),
        open_key="<parameter=",
        open_value=">",
        close_value="</parameter>\n",
    ),
)
