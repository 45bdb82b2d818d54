"""Kimi K3: numbered calls in a channel of their own, with arguments that name their types.

The calls follow the end of the answer's channel.
"""

from server.reasoning.marks import KIMI_K3
from server.tools.layout import CallField, CallLayout
from server.tools.styles.tagged_format import TaggedFormat
from server.tools.styles.tagged_layout import TaggedLayout

FORMAT = TaggedFormat(
    "kimi_k3",
    TaggedLayout(
        CallLayout(
            begin="<|close|>response<|sep|><|open|>tools<|sep|>",
            open='<|open|>call tool="',
            body=(
                CallField.NAME,
                '" index="',
                CallField.INDEX,
                '"<|sep|>',
                CallField.ARGUMENTS,
                "<|close|>call<|sep|>",
            ),
            end="<|close|>tools<|sep|>",
            after_text="",
            first_index=1,
            answer_ends=KIMI_K3.answer_ends,
        ),
        open_key='<|open|>argument key="',
        open_value='" type="{type}"<|sep|>',
        close_value="<|close|>argument<|sep|>",
        open_string='" type="string"<|sep|>',
    ),
)
