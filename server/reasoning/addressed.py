"""AddressedReader: a reader that separates thought and answer in messages to recipients, as Muse Glimmer writes them.

     to=self<|message|>THOUGHT<|eom|>
    <|start|>assistant to=NAME<|message|>CALL<|eom|>
    <|start|>assistant to=user<|message|>ANSWER<|eot|>

The prompt ends with <|start|>assistant.
"""

import re

from server.reasoning.message_reader import MessageReader, TextSection

_RECIPIENT = re.compile(r"\bto=([^\s<]+)")


class AddressedReader(MessageReader):
    """A MessageReader of messages to recipients: to the model itself, a tool or the user, who also gets messages to
    nobody. A call is content with its marks, always with <|start|> before its header and <|eom|> at its end."""

    ENDS = ("<|eom|>", "<|eot|>")
    HEADER_STARTS = ("<|start|>", "<|message|>", "to=")
    NEXT_HEADERS = ("<|start|>",)
    CALL_END = "<|eom|>"

    def _open(self, header: str, /) -> tuple[TextSection, str]:
        match = _RECIPIENT.search(header)
        recipient = "user" if match is None else match[1]
        if recipient in ("self", "user"):
            return TextSection.ANALYSIS if recipient == "self" else TextSection.ANSWER, ""
        return TextSection.CALL, f"<|start|>assistant to={recipient}<|message|>"
