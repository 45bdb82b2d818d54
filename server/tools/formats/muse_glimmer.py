"""Muse Glimmer: an answer is messages to recipients, and a message to a tool has a call between tags.

     to=user<|message|>the answer<|eom|><|start|>assistant to=NAME<|message|><atem:function_calls>
    <atem:invoke name="NAME">
    <atem:parameter name="KEY">VALUE</atem:parameter>
    </atem:invoke>
    </atem:function_calls>

The prompt ends with <|start|>assistant. Tags in other messages than those to a tool are text.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from server.schemas.base import quote
from server.structured_outputs.grammar import GrammarBuilder
from server.tools.format import Tool, WrittenCall
from server.tools.layout import CallField, CallLayout
from server.tools.styles.tagged_format import TaggedFormat
from server.tools.styles.tagged_layout import TaggedLayout

_ROLE = "<|start|>assistant"
_NEXT = f"<|eom|>{_ROLE}"
_NO_TOOLS = ("user", "self")  # recipients of other messages


@dataclass(frozen=True, slots=True)
class AddressedFormat(TaggedFormat):
    """The format of calls in messages to a tool, whose name stands in the header and in the call."""

    def grammar(self, builder: GrammarBuilder, tools: Sequence[Tool], *, min_calls: int, is_parallel: bool) -> str:
        body = builder.rule(*(self._body(builder, tool) for tool in tools))
        call = f"{builder.literal(' to=')} {body}"
        following = builder.rule(f"{builder.literal(_NEXT)} {call}")
        calls = f"{call} {following}*" if is_parallel else call
        if min_calls:
            return calls
        text = f"{builder.literal(' to=user<|message|>')} {builder.text()}"
        return builder.rule(calls, f"{text} {following}*" if is_parallel else builder.rule(text, f"{text} {following}"))

    def write(self, calls: Sequence[WrittenCall]) -> str:
        return _NEXT.join(self.layout.write([call]).removeprefix(_ROLE).removesuffix("<|eom|>") for call in calls)

    def describe_unwritable(self, tool: Tool, /) -> str | None:
        if tool.name in _NO_TOOLS:
            return f"the name {quote(tool.name)}"
        return TaggedFormat.describe_unwritable(self, tool)


FORMAT = AddressedFormat(
    "muse_glimmer",
    TaggedLayout(
        CallLayout(
            begin="",
            open=f"{_ROLE} to=",
            body=(
                CallField.NAME,
                '<|message|><atem:function_calls>\n<atem:invoke name="',
                CallField.NAME,
                '">\n',
                CallField.ARGUMENTS,
                "</atem:invoke>\n</atem:function_calls>",
            ),
            end="<|eom|>",
            after_text=None,
        ),
        open_key='<atem:parameter name="',
        open_value='">',
        close_value="</atem:parameter>\n",
    ),
    other_triggers=("to=",),  # the prompt ends with what precedes it
)
