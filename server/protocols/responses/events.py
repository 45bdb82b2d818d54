"""Events of a streamed response. The formatter numbers them."""

import msgspec
from msgspec import UNSET, UnsetType

from server.protocols.responses.objects import OutputItem, OutputText, ReasoningText, Response
from server.schemas.answers import ChatLogprob


class Event(msgspec.Struct, kw_only=True):
    type: str
    sequence_number: int = 0


class ResponseEvent(Event, kw_only=True):
    """Start (response.created, response.in_progress) or end (response.completed and others) of a response."""

    response: Response


class ItemEvent(Event, kw_only=True):
    """Start or end of an output item: response.output_item.added, response.output_item.done."""

    output_index: int
    item: OutputItem


class PartEvent(Event, kw_only=True):
    """Start or end of a content part: response.content_part.added, response.content_part.done."""

    item_id: str
    output_index: int
    content_index: int = 0
    part: OutputText | ReasoningText


class Delta(Event, kw_only=True):
    """A piece of text: of a call's arguments or input or, with content_index, of a content part."""

    item_id: str
    output_index: int
    content_index: int | UnsetType = UNSET
    delta: str
    logprobs: list[ChatLogprob] | UnsetType = UNSET  # of response.output_text.delta
    obfuscation: str | UnsetType = UNSET


class TextDone(Event, kw_only=True):
    """End of a text: response.output_text.done, response.reasoning_text.done."""

    item_id: str
    output_index: int
    content_index: int = 0
    text: str
    logprobs: list[ChatLogprob] | UnsetType = UNSET  # of response.output_text.done


class ArgumentsDone(Event, kw_only=True):
    type: str = "response.function_call_arguments.done"
    item_id: str
    output_index: int
    name: str
    arguments: str


class InputDone(Event, kw_only=True):
    type: str = "response.custom_tool_call_input.done"
    item_id: str
    output_index: int
    input: str


StreamEvent = ResponseEvent | ItemEvent | PartEvent | Delta | TextDone | ArgumentsDone | InputDone


def responses_loading_error(body: bytes) -> bytes:
    """Return the error event that ends a stream whose model failed to load. body: the error response's body."""
    error = msgspec.json.decode(body)["error"]
    event = {"type": "error", "sequence_number": 0, **{key: error[key] for key in ("code", "message", "param")}}
    return b"event: error\ndata: " + msgspec.json.encode(event) + b"\n\n"
