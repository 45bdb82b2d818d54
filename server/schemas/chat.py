"""The body of POST /v1/chat/completions."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationInfo
from pydantic_core import PydanticCustomError

from engine.errors import InvalidRequest
from server.schemas.base import INT32, MAX_MESSAGES, TEXT_ONLY, UNSUPPORTED, StrictModel, extra_at
from server.schemas.sampling import GenerationRequest, OutputLimit, check_logprobs
from server.schemas.tools import (
    MAX_TOOLS,
    ChatTool,
    FunctionCall,
    FunctionDefinition,
    FunctionName,
    MessageToolCall,
    ToolChoice,
)

# Types of parts that other servers accept; any other unknown type is a client's error
_MEDIA = ("image", "audio", "video", "file")
_FORMS = ("{}", "{}_url", "{}_embeds", "input_{}")
_OTHER_PARTS = frozenset(form.format(medium) for medium in _MEDIA for form in _FORMS)
_NEED_CONTENT = frozenset({"developer", "system", "user", "tool", "function"})  # an assistant may have calls instead


def _known_type(value: Any) -> Any:
    if isinstance(value, str) and value in _OTHER_PARTS:
        raise PydanticCustomError(UNSUPPORTED, TEXT_ONLY)
    return value


class MessageText(StrictModel):
    type: Annotated[Literal["text"], BeforeValidator(_known_type)]
    text: str


def _parts(content: Any, info: ValidationInfo) -> Any:
    """Validate a message's content, and convert a string to a list of one text part."""
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    if content is None and (role := info.data.get("role")) in _NEED_CONTENT:
        raise PydanticCustomError(
            "content", 'a message of role {role} needs a string or a list of parts, "" if it is empty', {"role": role}
        )
    if content is not None and not isinstance(content, list):
        raise PydanticCustomError("content", "it must be a string, a list of parts, or null")
    if content and info.data.get("role") == "assistant":
        return [_refusal_as_text(part) for part in content]
    return content


def _refusal_as_text(part: Any) -> Any:
    """Convert a refusal part, which clients send back in an assistant message, to a text part."""
    if isinstance(part, dict) and part.get("type") == "refusal" and isinstance(part.get("refusal"), str):
        others = {name: value for name, value in part.items() if name != "refusal"}
        return {**others, "type": "text", "text": part["refusal"]}
    return part


class Message(StrictModel):
    """A message. Undeclared fields are passed to the chat template unchanged."""

    role: Literal["developer", "system", "user", "assistant", "tool", "function"]
    content: Annotated[
        Annotated[list[MessageText], Field(fail_fast=True)] | None,
        BeforeValidator(_parts, json_schema_input_type=str | list[MessageText] | None),
        Field(validate_default=True),  # a missing field is null
    ] = None
    tool_calls: list[MessageToolCall] | None = None
    function_call: FunctionCall | None = None  # the old name of a single call
    tool_call_id: str | None = None  # id of the call whose result this message has

    inner_fields = ("content",)

    @property
    def extra(self) -> dict[str, Any]:
        return self.inner_extra()

    @property
    def text(self) -> str:
        """Content as one string; "" if there is none."""
        return "\n".join(part.text for part in self.content or [])


def _function_call(value: Any) -> Any:
    if isinstance(value, dict):
        return FunctionName.model_validate(value)  # pydantic's error for the union would be unclear
    if value not in (None, "none", "auto"):
        raise PydanticCustomError("function_call", "it must be none, auto or an object with a name")
    return value


class ToolFields(StrictModel):
    """Request fields about tools: their definitions, and which of them the model may or must call."""

    tools: Annotated[list[ChatTool], Field(fail_fast=True, max_length=MAX_TOOLS)] | None = None
    tool_choice: ToolChoice = None
    parallel_tool_calls: bool | None = None
    functions: Annotated[list[FunctionDefinition], Field(fail_fast=True, max_length=MAX_TOOLS)] | None = None
    function_call: Annotated[Literal["none", "auto"] | FunctionName | None, BeforeValidator(_function_call)] = None

    inner_fields = ("tools",)

    @property
    def passed_on(self) -> dict[str, Any]:
        passed_on: dict[str, Any] = {}
        for i, tool in enumerate(self.tools or []):
            passed_on |= extra_at(f"tools[{i}].function", tool.function)
        for i, function in enumerate(self.functions or []):
            passed_on |= extra_at(f"functions[{i}]", function)
        return passed_on


class ChatContent(ToolFields):
    """The messages and tools of a chat request."""

    messages: Annotated[list[Message], Field(fail_fast=True, min_length=1, max_length=MAX_MESSAGES)]

    inner_fields = ("messages",)


class TemplateOptions(StrictModel):
    """Request fields with options for the chat template."""

    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh"] | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    add_special_tokens: bool | None = None

    @property
    def opens_answer(self) -> bool:
        """Whether the prompt ends with the start of a new assistant message (the default).

        Raises InvalidRequest if add_generation_prompt and continue_final_message are both true.
        """
        if not self.continue_final_message:
            return self.add_generation_prompt is not False
        if self.add_generation_prompt:
            raise InvalidRequest(
                "add_generation_prompt and continue_final_message are both true; set one of them to false",
                param="continue_final_message",
            )
        return False


class ChatTemplateFields(TemplateOptions, ChatContent):
    """All request fields that determine a chat's prompt."""


_Content = str | list[MessageText]


class Prediction(StrictModel):
    """Text that the client expects in the answer, such as the file to be edited."""

    type: Literal["content"]
    content: Annotated[
        Annotated[list[MessageText], Field(fail_fast=True)], BeforeValidator(_parts, json_schema_input_type=_Content)
    ]

    @property
    def text(self) -> str:
        return "".join(part.text for part in self.content)


class ChatOptions(GenerationRequest, TemplateOptions):
    """All fields of a chat request except its messages and tools."""

    max_tokens: OutputLimit | None = None
    max_completion_tokens: OutputLimit | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    prediction: Prediction | None = None
    thinking_token_budget: Annotated[int, Field(ge=0, le=INT32)] | None = None
    include_reasoning: bool | None = None

    inner_fields = ("prediction",)

    @property
    def requested_max_tokens(self) -> int | None:
        """Value of max_completion_tokens, or of its old name max_tokens; None means the rest of the context."""
        new, old = self.max_completion_tokens, self.max_tokens
        if new is not None and old is not None and new != old:
            raise InvalidRequest(
                f"max_tokens is {old} and max_completion_tokens is {new}; give one of them", param="max_tokens"
            )
        return new if new is not None else old

    def num_logprobs(self, limit: int) -> int | None:
        """Return the number of top tokens to report with each sampled token; None for no logprobs."""
        if self.top_logprobs is not None:
            check_logprobs(self.top_logprobs, limit, "top_logprobs")
            if self.top_logprobs and not self.logprobs:
                raise InvalidRequest("top_logprobs needs logprobs: true", param="top_logprobs")
        return (self.top_logprobs or 0) if self.logprobs else None


class ChatCompletionRequest(ChatOptions, ChatContent): ...
