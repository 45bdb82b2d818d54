"""Seed-OSS: <function=NAME> with a <parameter=KEY> for each argument, in <seed:tool_call>."""

from server.tools.layout import CallLayout, Slot
from server.tools.tagged_format import TaggedFormat
from server.tools.tagged_layout import TaggedLayout

FORMAT = TaggedFormat(
    "seed_oss",
    TaggedLayout(
        CallLayout(
            begin="",
            open="<seed:tool_call>\n<function=",
            body=(Slot.NAME, ">\n", Slot.ARGUMENTS, "</function>\n</seed:tool_call>"),
            separator="\n",
            after_text="\n\n",
        ),
        open_key="<parameter=",
        open_value=">",
        close_value="</parameter>\n",
    ),
)
