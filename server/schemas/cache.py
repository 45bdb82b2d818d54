"""Bodies and answers of operators' routes for named prefixes of the KV cache."""

import re
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, UnsetType
from pydantic import BeforeValidator
from pydantic_core import PydanticCustomError

from engine.errors import InvalidRequest
from server.schemas.base import StrictModel, validate
from server.schemas.chat import ChatTemplateFields
from server.schemas.completions import Prompts

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def _checked_name(value: Any) -> Any:
    if isinstance(value, str) and not _NAME.fullmatch(value):
        raise PydanticCustomError(
            "prefix_name", "it must be 1 to 64 letters, digits, '.', '_' and '-', and begin with a letter or digit"
        )
    return value


class PrefixName(StrictModel):
    """A prefix that is known by its name."""

    name: Annotated[str, BeforeValidator(_checked_name, json_schema_input_type=str)]
    model: str | None = None


class PrefixFields(PrefixName):
    """Fields that descriptions of a prefix share. key: name of the API key whose requests find the prefix, if it is not
    the sender's."""

    cache_salt: str | None = None
    key: str | None = None


class PrefixOfText(PrefixFields):
    """A prefix that is a text or a list of token ids. Without a prompt, a prefix that is known by its name, with its
    salt."""

    prompt: Prompts | None = None
    add_special_tokens: bool | None = None


class PrefixOfChat(PrefixFields, ChatTemplateFields):
    """A prefix that is the beginning of a chat: its messages and tools."""


PrefixRequest = PrefixOfText | PrefixOfChat


def prefix_request(raw: dict[str, Any]) -> PrefixRequest:
    """Return the body as a request of one of the two forms. Raises InvalidRequest."""
    if "messages" not in raw:
        body = validate(PrefixOfText, raw)
        for name in ("cache_salt", "key", "add_special_tokens"):
            if body.prompt is None and getattr(body, name) is not None:
                raise InvalidRequest(
                    f"{name} is given without prompt and messages; a known prefix keeps its own; leave it out, or give "
                    "the prefix again",
                    param=name,
                )
        return body
    if "prompt" in raw:
        raise InvalidRequest("prompt and messages are both given; give one of them", param="prompt")
    return validate(PrefixOfChat, raw)


Where = Literal["pinned", "memory", "disk", "part", "none"]


class CachedPrefix(msgspec.Struct, kw_only=True):
    """A named prefix. tokens: in its whole blocks, which alone are kept. bytes: of these blocks. where: null
    while the model is not loaded; "memory" is not pinned, "disk" needs no computation, with "part" only the rest is
    computed. cached_tokens: those that did not have to be computed now. cache_scope: the keys whose requests find it,
    such as "key ann" or "group sales"; null where all keys share cached prefixes. has_cache_salt: only requests with
    the cache_salt that it was given find it."""

    name: str
    object: Literal["cache.prefix"] = "cache.prefix"
    model: str
    cache_scope: str | None
    has_cache_salt: bool
    tokens: int
    cached_tokens: int | UnsetType = UNSET
    blocks: int
    bytes: int
    where: Where | None
    memory_blocks: int | None
    disk_blocks: int | None
    created_at: int
    last_used_at: int


class CachedPrefixes(msgspec.Struct):
    object: Literal["list"]
    data: list[CachedPrefix]


class PrefixDeleted(msgspec.Struct):
    name: str
    object: Literal["cache.prefix"]
    deleted: bool
