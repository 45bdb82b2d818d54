"""Readers of thought and answer in messages whose headers name a channel or a recipient: of Harmony, and of a relative.

HarmonyReader (gpt-oss):

    <|channel|>analysis<|message|>THOUGHT<|end|>
    <|start|>assistant<|channel|>commentary<|message|>PREAMBLE<|end|>
    <|start|>assistant<|channel|>commentary to=functions.NAME <|constrain|>json<|message|>ARGUMENTS<|call|>
    <|start|>assistant<|channel|>final<|message|>ANSWER<|return|>

AddressedReader (Muse Glimmer):

     to=self<|message|>THOUGHT<|eom|>
    <|start|>assistant to=NAME<|message|>CALL<|eom|>
    <|start|>assistant to=user<|message|>ANSWER<|eot|>

Prompts end with <|start|>assistant. In Harmony, a recipient (to=...) may also stand before <|channel|>.
"""

import re

from server.reasoning.message_reader import MessageReader, TextSection

_CHANNEL = "<|channel|>"
_RECIPIENT = re.compile(r"\s*\bto=([^\s<]+)")


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


class AddressedReader(MessageReader):
    """A MessageReader of messages to recipients. Those to `self` are thoughts; those to the user, or without a
    recipient, are the answer.

    A message to any other recipient is a tool call: it is content with its marks, always with <|start|> before its
    header and <|eom|> at its end.
    """

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
