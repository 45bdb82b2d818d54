"""Bodies of error responses, by protocol."""

from typing import Literal

import msgspec
from msgspec import UNSET, UnsetType


class OpenAIErrorFields(msgspec.Struct):
    message: str
    type: str
    param: str | None  # the field, by its path
    code: str | None


class OpenAIError(msgspec.Struct):
    error: OpenAIErrorFields


class AnthropicErrorDetails(msgspec.Struct):
    error_code: str


class AnthropicErrorFields(msgspec.Struct):
    type: str
    message: str
    details: AnthropicErrorDetails | UnsetType = UNSET


class AnthropicError(msgspec.Struct):
    type: Literal["error"]
    error: AnthropicErrorFields
    request_id: str


class OllamaError(msgspec.Struct):
    error: str


class SystemOneFault(msgspec.Struct):
    loc: list[str | int]  # "body", then the field's path
    msg: str
    type: str


class SystemOneError(msgspec.Struct):
    error: OpenAIErrorFields
    detail: list[SystemOneFault] | UnsetType = UNSET  # of a body that is refused
