"""Kimi K2: the id functions.NAME:INDEX says the name, and the arguments follow."""

from server.tools.layout import CallLayout, Slot
from server.tools.layout_format import LayoutFormat

FORMAT = LayoutFormat(
    "kimi_k2",
    CallLayout(
        begin="<|tool_calls_section_begin|>",
        open="<|tool_call_begin|>functions.",
        body=(
            Slot.NAME,
            ":",
            Slot.INDEX,
            "<|tool_call_argument_begin|>",
            Slot.ARGUMENTS,
            "<|tool_call_end|>",
        ),
        end="<|tool_calls_section_end|>",
        id_format="functions.{name}:{index}",
    ),
    takes_object_arguments=False,
)
