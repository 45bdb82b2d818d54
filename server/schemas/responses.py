"""Bodies of POST /v1/responses and /v1/responses/input_tokens."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

from engine.errors import InvalidRequest, UnsupportedParameter
from server.schemas.base import INT32, StrictModel, by_type, quote
from server.schemas.response_items import Input
from server.schemas.response_tools import ResponseToolChoice, ResponseTools
from server.schemas.sampling import OutputLimit

_MAX_PAIRS, _MAX_KEY, _MAX_VALUE = 16, 64, 512  # OpenAI's limits of metadata

Includable = Literal[
    "message.output_text.logprobs",
    "reasoning.encrypted_content",
    "file_search_call.results",
    "web_search_call.results",
    "web_search_call.action.sources",
    "message.input_image.image_url",
    "computer_call_output.output.image_url",
    "code_interpreter_call.outputs",
]

# Fields of chats that have another name here
_CHAT_NAMES = {
    "messages": "input",
    "max_tokens": "max_output_tokens",
    "max_completion_tokens": "max_output_tokens",
    "response_format": "text.format",
    "reasoning_effort": "reasoning.effort",
    "verbosity": "text.verbosity",
    "functions": "tools",
    "function_call": "tool_choice",
    "logprobs": 'include: ["message.output_text.logprobs"]',
}


# Fields that a response has no place for, or that this server does not support
_UNSUPPORTED = ("prompt", "context_management", "prompt_logprobs", "return_token_ids")


class JsonSchemaFormat(StrictModel):
    model_config = ConfigDict(serialize_by_alias=True)

    type: Literal["json_schema"]
    name: str
    schema_: Annotated[dict[str, Any], Field(alias="schema")]
    description: str | None = None
    strict: bool | None = None


class PlainFormat(StrictModel):
    type: Literal["text", "json_object"]


_read_format = by_type({"text": PlainFormat, "json_object": PlainFormat, "json_schema": JsonSchemaFormat})


class TextConfig(StrictModel):
    format: Annotated[PlainFormat | JsonSchemaFormat, BeforeValidator(_read_format)] | None = None
    verbosity: Literal["low", "medium", "high"] | None = None

    inner_fields = ("format",)


class Reasoning(StrictModel):
    effort: str | None = None
    summary: Literal["auto", "concise", "detailed"] | None = None
    generate_summary: Literal["auto", "concise", "detailed"] | None = None


class ResponseStreamOptions(StrictModel):
    include_obfuscation: bool | None = None


def _checked_metadata(metadata: dict[str, str] | None) -> dict[str, str] | None:
    if metadata is None:
        return None
    if len(metadata) > _MAX_PAIRS:
        raise PydanticCustomError(
            "metadata",
            "it must have at most {limit} pairs, and has {count}",
            {"limit": _MAX_PAIRS, "count": len(metadata)},
        )
    long = next((key for key, value in metadata.items() if len(key) > _MAX_KEY or len(value) > _MAX_VALUE), None)
    if long is not None:
        raise PydanticCustomError(
            "metadata",
            "its keys must have at most {key} characters and its values at most {value}; {long} or its value has more",
            {"key": _MAX_KEY, "value": _MAX_VALUE, "long": quote(long)},
        )
    return metadata


Metadata = Annotated[dict[str, str] | None, AfterValidator(_checked_metadata)]


class PromptFields(StrictModel):
    """The request fields that determine the prompt. A null field counts as left out."""

    model: str | None = None
    input: Input = None
    instructions: str | None = None
    tools: ResponseTools | None = None
    tool_choice: ResponseToolChoice = None
    parallel_tool_calls: bool | None = None
    text: TextConfig | None = None
    reasoning: Reasoning | None = None
    truncation: Literal["auto", "disabled"] | None = None
    previous_response_id: str | None = None
    conversation: str | dict[str, Any] | None = None

    @property
    def chat_fields(self) -> dict[str, Any]:
        """Undeclared fields that are not null: Chat Completions fields that this API accepts too, and unknown fields.

        Raises InvalidRequest for a Chat Completions field that has another name in this API, and UnsupportedParameter
        for a field that this server does not support.
        """
        extra = {name: value for name, value in (self.model_extra or {}).items() if value is not None}
        for name, ours in _CHAT_NAMES.items():
            if name in extra:
                raise InvalidRequest(f"{name} is a field of chats; this endpoint calls it {ours}", param=name)
        if extra.get("n", 1) != 1:
            raise UnsupportedParameter("n is not supported by this endpoint; a response is one answer", param="n")
        for name in _UNSUPPORTED:
            if extra.pop(name, None) not in (None, False, []):
                raise UnsupportedParameter(f"{name} is not supported; leave it out", param=name)
        return extra


class ResponsesRequest(PromptFields):
    max_output_tokens: OutputLimit | None = None
    max_tool_calls: Annotated[int, Field(ge=1, le=INT32)] | None = None  # calls of tools that the server runs
    include: list[Includable] | None = None
    top_logprobs: Annotated[int, Field(ge=0)] | None = None
    metadata: Metadata = None
    stream: bool | None = None
    stream_options: ResponseStreamOptions | None = None
    store: bool | None = None
    background: bool | None = None
    resumable: bool | None = None

    def includes(self, what: Includable) -> bool:
        return what in (self.include or [])


class InputTokensRequest(PromptFields):
    """The body of POST /v1/responses/input_tokens, which counts the tokens of the prompt."""
