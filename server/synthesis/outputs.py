"""Outputs of a recipe: the lines that are made of an item's variables."""

from typing import Any

import msgspec

from server.synthesis.variables import Values, filled


class LineOutput(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind"):
    """The line made of an item's variables: a chat. best: number by which one of several samples is chosen."""

    user: str
    system: str | None = None
    best: str | None = None  # the largest


class ChatOutput(LineOutput, tag="chat", frozen=True):
    """A chat of one question and its answer."""

    assistant: str

    @property
    def texts(self) -> dict[str, str | None]:
        return {"user": self.user, "system": self.system, "assistant": self.assistant}

    def line(self, values: Values) -> dict[str, Any]:
        roles = ("system", "user", "assistant")
        texts = [(role, self.texts[role]) for role in roles]
        return {"messages": [{"role": role, "content": filled(text, values)} for role, text in texts if text]}


OUTPUTS = (ChatOutput,)
AnyOutput = ChatOutput
