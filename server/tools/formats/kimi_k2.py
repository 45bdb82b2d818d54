"""Kimi K2: the id functions.NAME:INDEX, which includes the name, then the arguments."""

from server.tools.layout import CallField, CallLayout
from server.tools.styles.json_format import JsonFormat

FORMAT = JsonFormat(
    "kimi_k2",
    CallLayout(
        begin="<|tool_calls_section_begin|>",
        open="<|tool_call_begin|>functions.",
        body=(
            CallField.NAME,
            ":",
            CallField.INDEX,
            "<|tool_call_argument_begin|>",
            CallField.ARGUMENTS,
            "<|tool_call_end|>",
        ),
        end="<|tool_calls_section_end|>",
        id_format="functions.{name}:{index}",
    ),
    takes_object_arguments=False,
)
