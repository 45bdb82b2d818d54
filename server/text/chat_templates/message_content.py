"""The form in which a chat template takes a message's content: one text, a list of parts, or either.

Templates of text models insert content as a string, templates of vision models iterate over parts, and some test
the type of the content. Jinja raises no error for the wrong form: it inserts a list as Python would print it, and
iterates over the characters of a string. So the form is determined from the prompts of trial chats.
"""

import enum
import re
from collections.abc import Mapping, Sequence
from typing import Any

from engine.errors import InvalidRequest

_FIRST, _SECOND = "xfirstx", "xsecondx"
_READS_PARTS = re.compile(r"\.text\b|['\"]text['\"]")  # in every template that reads parts

_USER = {"role": "user", "content": "Hello"}
_CALL = {"id": "call00000", "type": "function", "function": {"name": "add", "arguments": {}}}
_CALLING = {"role": "assistant", "content": "", "tool_calls": [_CALL]}

TRIAL_PARTS = [{"type": "text", "text": _FIRST}, {"type": "text", "text": _SECOND}]
TRIAL_TEXT = _FIRST


class ContentForm(enum.Enum):
    TEXT = enum.auto()
    PARTS = enum.auto()
    EITHER = enum.auto()


def may_read_parts(source: str) -> bool:
    """Whether a template may read content parts. If not, its form is ContentForm.TEXT, and no trial is needed."""
    return _READS_PARTS.search(source) is not None


def trial_chat(role: str, content: object) -> list[dict[str, Any]]:
    """Return a chat that most templates accept, with `content` in a message of `role`."""
    message = {"role": role, "content": content}
    match role:
        case "user":
            return [message]
        case "assistant":
            return [_USER, message, _USER]
        case "tool":
            return [_USER, _CALLING, {**message, "tool_call_id": _CALL["id"], "name": "add"}]
    return [message, _USER]


def detect_form(of_parts: str | None, of_text: str | None) -> ContentForm:
    """Return the content form, from the prompts for TRIAL_PARTS and TRIAL_TEXT. None: the template refused the chat."""
    if of_parts is None or not _shows_parts(of_parts):
        return ContentForm.TEXT
    return ContentForm.PARTS if of_text is None or _FIRST not in of_text else ContentForm.EITHER


def _shows_parts(prompt: str) -> bool:
    """Whether the prompt has the texts of both trial parts, and not a Python list with them."""
    _, first, rest = prompt.partition(_FIRST)
    between, second, _ = rest.partition(_SECOND)
    return bool(first and second) and "type" not in between


def to_form(content: object, index: int, form: ContentForm) -> str | list[dict[str, Any]]:
    """Convert the content of message `index` to the form: to text, with parts joined by line breaks, or to parts.

    Raises InvalidRequest for a part that is not text.
    """
    if content is None or isinstance(content, str):
        text = content or ""
        return text if form is not ContentForm.PARTS else [{"type": "text", "text": text}]
    parts = [_checked(part, index) for part in (content if isinstance(content, Sequence) else [content])]
    return text_of(parts) if form is ContentForm.TEXT else parts


def text_of(content: object) -> str:
    """Return content of any form as one text."""
    if isinstance(content, list):
        return "\n".join(part["text"] for part in content)
    return "" if content is None else str(content)


def has_text(content: str | list[dict[str, Any]]) -> bool:
    """Whether the content is more than blanks."""
    texts = [content] if isinstance(content, str) else [part["text"] for part in content]
    return any(text.strip() for text in texts)


def append_text(content: str | list[dict[str, Any]], end: str) -> str | list[dict[str, Any]]:
    """Return the content with `end` appended to its text."""
    if isinstance(content, str):
        return content + end
    if not content:
        return [{"type": "text", "text": end}]
    return [*content[:-1], {**content[-1], "text": content[-1]["text"] + end}]


def _checked(part: object, index: int) -> dict[str, Any]:
    if not isinstance(part, Mapping) or part.get("type") != "text" or not isinstance(part.get("text"), str):
        raise InvalidRequest(
            f"messages[{index}].content has a part that is not of type text; this model takes only text",
            param=f"messages[{index}].content",
        )
    return dict(part)
