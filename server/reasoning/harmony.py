"""HarmonyReader: a reader that separates thought and answer in the text of a model that writes Harmony (gpt-oss).

    <|channel|>analysis<|message|>THOUGHT<|end|>
    <|start|>assistant<|channel|>commentary<|message|>PREAMBLE<|end|>
    <|start|>assistant<|channel|>commentary to=functions.NAME <|constrain|>json<|message|>ARGUMENTS<|call|>
    <|start|>assistant<|channel|>final<|message|>ANSWER<|return|>

The prompt ends with <|start|>assistant. A recipient (to=...) may also stand before <|channel|>.
"""

import re

from server.reasoning.message_reader import MessageReader, TextSection

_CHANNEL = "<|channel|>"
_RECIPIENT = re.compile(r"\s*\bto=[^\s<]+")


class HarmonyReader(MessageReader):
    """A MessageReader of Harmony. Messages of the channel "analysis" are thoughts.

    A message to a recipient is a tool call in any channel: it is content with its marks, always with the recipient
    after the channel and <|call|> at its end.
    """

    ENDS = ("<|end|>", "<|return|>", "<|call|>")
    HEADER_STARTS = ("<|start|>", _CHANNEL, "<|message|>", "to=")
    NEXT_HEADERS = ("<|start|>", _CHANNEL)
    CALL_END = "<|call|>"

    def _open(self, header: str, /) -> tuple[TextSection, str]:
        role, _, channel = header.partition(_CHANNEL)
        name = (channel.split(maxsplit=1) or [""])[0].partition("<")[0]
        if recipient := _RECIPIENT.search(channel) or _RECIPIENT.search(role):
            others = _RECIPIENT.sub("", channel.strip().removeprefix(name)).strip()
            opening = f"{_CHANNEL}{name or 'commentary'} {recipient[0].strip()} {others}".rstrip()
            return TextSection.CALL, f"{opening}<|message|>"
        return TextSection.ANALYSIS if name == "analysis" else TextSection.ANSWER, ""
