"""Renderings: the texts that a chat template renders for known calls."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from engine.errors import InvalidRequest
from server.text.chat_templates.chat_template import ChatTemplate

USER = "zqxuser"
TEXT = "zqxtext"
KEYS = ("zqx_city", "zqx_count")
VALUES = ("zqxparis", 54321)
ARGUMENTS_OBJECT = dict(zip(KEYS, VALUES, strict=True))
# The odd spaces, which no template writes, show whether the text of arguments is passed through.
ARGUMENTS_TEXT = '{"zqx_city":  "zqxparis",  "zqx_count":  54321}'
ARGUMENTS = re.compile(
    r'\{\s*"zqx_city"(?P<key_separator>\s*:\s*)"zqxparis"(?P<item_separator>\s*,\s*)"zqx_count"\s*:\s*54321\s*\}'
)

# Tags and bracketed words, which may be special tokens
_MARK = re.compile(r"<[^<>\s]*>|\[[A-Z_/]+\]")


@dataclass(frozen=True, slots=True)
class ProbeCall:
    """A tool call with a unique name and id, which can be found in rendered text."""

    name: str
    id: str


# Every template accepts ids of nine letters and digits.
CALLS = (ProbeCall("zqx_first", "zqxcall01"), ProbeCall("zqx_second", "zqxcall02"))


class Renderings:
    """A chat template's renderings of assistant messages with known tool calls."""

    def __init__(self, template: ChatTemplate) -> None:
        self._template = template
        self._user = [{"role": "user", "content": USER}]
        self.prompt = self._render(self._user, add_generation_prompt=True)

    @property
    def shows_tools(self) -> bool:
        return self.prompt is not None and all(call.name in self.prompt for call in CALLS)

    def answer(self, num_calls: int, *, content: str = "", takes_object: bool) -> str | None:
        """Return an answer with `num_calls` calls as rendered after the prompt; None if the template refuses it."""
        message: dict[str, Any] = {"role": "assistant", "content": content}
        if num_calls:
            message["tool_calls"] = [_message_call(call, takes_object=takes_object) for call in CALLS[:num_calls]]
        rendered = self._render([*self._user, message], add_generation_prompt=False)
        if rendered is None or self.prompt is None or USER not in rendered:
            return None
        start = _common_start(self.prompt, rendered)
        # The answer's first tag must be complete.
        start = next((mark.start() for mark in _MARK.finditer(rendered) if mark.start() < start < mark.end()), start)
        return rendered[max(start, rendered.rfind(USER) + len(USER)) :]

    def _render(self, messages: Sequence[Mapping[str, Any]], *, add_generation_prompt: bool) -> str | None:
        try:
            return self._template.render(messages, tools=_TOOLS, add_generation_prompt=add_generation_prompt).text
        except InvalidRequest:
            return None


def common_end(first: str, second: str) -> str:
    """Return the longest common suffix of both texts that does not start inside a tag."""
    size = _common_start(first[::-1], second[::-1])
    for text in (first, second):
        cut = len(text) - size
        for mark in _MARK.finditer(text):
            if mark.start() < cut < mark.end():
                size = len(text) - mark.end()
    return first[len(first) - size :]


def common_start(first: str, second: str) -> str:
    """Return the longest common prefix of both texts that does not end inside a tag."""
    size = _common_start(first, second)
    for text in (first, second):
        for mark in _MARK.finditer(text):
            if mark.start() < size < mark.end():
                size = mark.start()
    return first[:size]


def _common_start(first: str, second: str) -> int:
    pairs = zip(first, second, strict=False)
    return next((index for index, (a, b) in enumerate(pairs) if a != b), min(len(first), len(second)))


def _message_call(call: ProbeCall, *, takes_object: bool) -> dict[str, Any]:
    arguments = ARGUMENTS_OBJECT if takes_object else ARGUMENTS_TEXT
    return {"type": "function", "id": call.id, "function": {"name": call.name, "arguments": arguments}}


def _tool(name: str) -> dict[str, Any]:
    properties = {
        KEYS[0]: {"type": "string", "description": "A city."},
        KEYS[1]: {"type": "integer", "description": "A count."},
    }
    parameters = {"type": "object", "properties": properties, "required": list(KEYS)}
    function = {"name": name, "description": "Finds a place.", "parameters": parameters}
    return {"type": "function", "function": function}


_TOOLS = [_tool(call.name) for call in CALLS]
assert json.loads(ARGUMENTS_TEXT) == ARGUMENTS_OBJECT
