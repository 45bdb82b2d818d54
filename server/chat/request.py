"""ChatRequest: the protocol-independent chat request, to which every protocol's request is translated."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from engine.errors import InvalidRequest
from server.chat.content import ChatMessage
from server.chat.tools import ToolOffer
from server.schemas.base import MAX_MESSAGES, validate
from server.schemas.chat import ChatOptions


@dataclass(frozen=True, slots=True)
class Chat:
    """A conversation and the tools that it offers."""

    messages: Sequence[ChatMessage]
    tools: ToolOffer = field(default_factory=ToolOffer)


@dataclass(frozen=True)
class ChatRequest:
    """A chat and the options for its answer.

    extra: undeclared fields of the client's request, by path. passed_on: undeclared fields that the chat template gets,
    by path. names: maps field names of OpenAI's API to the client's, where its protocol differs, such as
    {"max_tokens": "max_output_tokens"}.
    """

    chat: Chat
    options: ChatOptions
    extra: Mapping[str, Any] = field(default_factory=dict)
    passed_on: Mapping[str, Any] = field(default_factory=dict)
    names: Mapping[str, str] = field(default_factory=dict)

    @property
    def paths(self) -> "ClientPaths":
        return ClientPaths(self.names, self.chat)


@dataclass(frozen=True)
class ClientPaths:
    """A mapping from field paths of OpenAI's API to the client's. A path below a mapped one is renamed with it."""

    fields: Mapping[str, str]
    chat: Chat | None = None

    @cached_property
    def names(self) -> Mapping[str, str]:
        return self.fields if self.chat is None else {**self.fields, **content_paths(self.chat)}

    def __getitem__(self, path: str) -> str:
        known = self._known(path)
        return path if known is None else self.names[known] + path[len(known) :]

    @contextlib.contextmanager
    def in_errors(self) -> Iterator[None]:
        """Rename the field in an InvalidRequest raised within the context to the client's name for it."""
        try:
            yield
        except InvalidRequest as error:
            param = error.param or ""
            known = self._known(param)
            if known is None:
                raise
            path = self[param]
            given = next((part for part in (param, known) if part in str(error)), param)
            renamed = path if given == param else self.names[known]
            error.args = (str(error).replace(given, renamed, 1), *error.args[1:])
            error.param = path
            raise

    def _known(self, path: str) -> str | None:
        """Return the longest prefix of the path that has a client's name; None if there is none."""
        end = len(path)
        while end > 0:
            if path[:end] in self.names:
                return path[:end]
            end = max(path.rfind(".", 0, end), path.rfind("[", 0, end))
        return None


def content_paths(chat: Chat) -> dict[str, str]:
    """Return client paths of messages, calls and tools by their OpenAI paths, where the two differ."""
    names: dict[str, str] = {}
    for index, message in enumerate(chat.messages):
        if message.path is not None:
            names[f"messages[{index}]"] = message.path
        for position, call in enumerate(message.calls):
            if call.path is not None:
                names[f"messages[{index}].tool_calls[{position}].function"] = call.path
    for index, definition in enumerate(chat.tools.definitions):
        names |= {chat.tools.path(index) + below: path for below, path in definition.paths.items()}
    return names


def chat_request(chat: Chat, options: Mapping[str, Any], names: Mapping[str, str]) -> ChatRequest:
    """Build a ChatRequest of a translated chat and its options. Raises InvalidRequest for an invalid option.

    names: maps field names of OpenAI's API to the client's, for errors.
    """
    with ClientPaths(names).in_errors():
        if len(chat.messages) > MAX_MESSAGES:
            raise InvalidRequest(
                f"messages has {len(chat.messages)} items; it must have at most {MAX_MESSAGES}", param="messages"
            )
        checked = validate(ChatOptions, dict(options))
    return ChatRequest(chat, checked, extra=checked.extra, passed_on=checked.passed_on, names=names)
