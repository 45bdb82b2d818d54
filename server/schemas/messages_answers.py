"""Responses of Anthropic's Messages API and the events of its streams, as msgspec structs."""

from typing import Any

import msgspec
from msgspec import UNSET, UnsetType


class MessageTokensDetails(msgspec.Struct):
    thinking_tokens: int


class MessageUsage(msgspec.Struct, kw_only=True):
    """Token usage of a message. The prompt's length is the sum of input_tokens and cache_read_input_tokens."""

    input_tokens: int
    cache_creation_input_tokens: int = 0  # caching is automatic and free
    cache_read_input_tokens: int
    output_tokens: int
    output_tokens_details: MessageTokensDetails | UnsetType = UNSET  # if the model thinks
    service_tier: str = "standard"


class ContentText(msgspec.Struct, tag_field="type", tag="text"):
    text: str = ""


class ContentThinking(msgspec.Struct, tag_field="type", tag="thinking"):
    thinking: str = ""
    signature: str = ""


class ContentToolUse(msgspec.Struct, tag_field="type", tag="tool_use"):
    id: str
    name: str
    input: dict[str, Any] = {}


BlockContent = ContentText | ContentThinking | ContentToolUse


class MessageAnswer(msgspec.Struct, kw_only=True, tag_field="type", tag="message"):
    id: str
    role: str = "assistant"
    model: str
    content: list[BlockContent]
    stop_reason: str | None = None
    stop_sequence: str | None = None
    usage: MessageUsage


# --- events of a stream ----------------------------------------------------------------------------------------------


class MessageStart(msgspec.Struct, tag_field="type", tag="message_start"):
    message: MessageAnswer


class BlockStart(msgspec.Struct, tag_field="type", tag="content_block_start"):
    index: int
    content_block: BlockContent


class TextDelta(msgspec.Struct, tag_field="type", tag="text_delta"):
    text: str


class ThinkingDelta(msgspec.Struct, tag_field="type", tag="thinking_delta"):
    thinking: str


class SignatureDelta(msgspec.Struct, tag_field="type", tag="signature_delta"):
    signature: str


class InputJsonDelta(msgspec.Struct, tag_field="type", tag="input_json_delta"):
    partial_json: str


DeltaContent = TextDelta | ThinkingDelta | SignatureDelta | InputJsonDelta


class BlockDelta(msgspec.Struct, tag_field="type", tag="content_block_delta"):
    index: int
    delta: DeltaContent


class BlockStop(msgspec.Struct, tag_field="type", tag="content_block_stop"):
    index: int


class Stop(msgspec.Struct):
    stop_reason: str
    stop_sequence: str | None


class MessageDelta(msgspec.Struct, tag_field="type", tag="message_delta"):
    delta: Stop
    usage: MessageUsage


class MessageStop(msgspec.Struct, tag_field="type", tag="message_stop"):
    pass


Event = MessageStart | BlockStart | BlockDelta | BlockStop | MessageDelta | MessageStop
