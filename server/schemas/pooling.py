"""Bodies of embeddings, /classify and /pooling: texts or a conversation as input, and options for the results."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, PlainValidator
from pydantic_core import PydanticCustomError

from engine.errors import InvalidRequest
from server.schemas.base import INT32, MAX_MESSAGES, UNSUPPORTED, StrictModel, quote
from server.schemas.chat import ChatTemplateFields, Message
from server.schemas.sampling import MAX_TIMEOUT_S, is_token_ids

MAX_INPUTS = 2048  # OpenAI's limit for one request


def _listed_inputs(value: Any, name: str) -> list[str] | list[list[int]]:
    """Convert inputs in any of their four forms to a list of inputs. name: the name of the request field, for errors.

    A pydantic union would report an error for each item. Raises InvalidRequest with the path of the first invalid item.
    """
    inputs = [value] if isinstance(value, str) or is_token_ids(value) else value
    if not isinstance(inputs, list) or not inputs:
        raise PydanticCustomError(
            "input", "it must be a string, a list of strings, a list of token ids, or a list of such lists, none empty"
        )
    check_number(len(inputs), name)
    is_text = isinstance(inputs[0], str)
    for number, item in enumerate(inputs):
        if not (isinstance(item, str) if is_text else is_token_ids(item)):
            raise InvalidRequest(
                f"{name}[{number}] is {quote(item)}; all items must be strings, or all lists of token ids, none empty",
                param=f"{name}[{number}]",
            )
    return inputs


def check_number(num_inputs: int, name: str) -> None:
    """Raise InvalidRequest if there are more than MAX_INPUTS inputs. name: the name of the request field."""
    if num_inputs > MAX_INPUTS:
        raise InvalidRequest(
            f"{name} has {num_inputs} items; the limit is {MAX_INPUTS}; send several requests", param=name
        )


def _truncate(value: Any) -> Any:
    """Validate `truncate`: Cohere's NONE, START and END, or a bool as in other APIs."""
    if isinstance(value, str):
        value = value.upper()
    if value is None or isinstance(value, bool) or value in ("NONE", "START", "END"):
        return value
    raise PydanticCustomError("truncate", "it must be true, false, NONE, START or END")


def _at_least_one(value: int) -> int:
    if value == 0:
        raise PydanticCustomError(
            "truncate_prompt_tokens", "it must be at least 1, or -1 for as many as the model takes"
        )
    return value


def _encoding(value: Any) -> Any:
    if value in ("bytes", "bytes_only"):
        raise PydanticCustomError(UNSUPPORTED, "this server answers in JSON; use base64")
    if value not in (None, "float", "base64"):
        raise PydanticCustomError("encoding_format", "it must be float or base64")
    return value


def _task(value: Any) -> Any:
    if value in ("token_classify", "plugin"):
        raise PydanticCustomError(UNSUPPORTED, "this server has embed, token_embed, classify and score")
    return value


Task = Literal["embed", "token_embed", "classify", "score"]
_InputForms = str | list[str] | list[int] | list[list[int]]


def _inputs_named(name: str) -> PlainValidator:
    return PlainValidator(lambda value: _listed_inputs(value, name), json_schema_input_type=_InputForms)


Inputs = Annotated[list[str] | list[list[int]], _inputs_named("input")]
_Encoding = Literal["float", "base64"] | None
_Truncate = bool | Literal["NONE", "START", "END"] | None


class PoolingFields(StrictModel):
    """The fields that all requests to pooling models share."""

    model: str | None = None
    # -1: as many as the model takes
    truncate_prompt_tokens: Annotated[int, Field(ge=-1, le=INT32), AfterValidator(_at_least_one)] | None = None
    truncation_side: Literal["left", "right"] | None = None
    truncate: Annotated[_Truncate, BeforeValidator(_truncate, json_schema_input_type=_Truncate)] = None
    timeout: Annotated[float, Field(gt=0, le=MAX_TIMEOUT_S)] | None = None  # seconds from the request's arrival
    service_tier: Literal["auto", "default", "flex", "priority"] | None = None
    priority: Annotated[int, Field(ge=-INT32, le=INT32)] | None = None
    cache_salt: str | None = None  # ignored, since inputs are not cached

    @property
    def is_truncated(self) -> bool:
        """Whether to truncate inputs that are too long."""
        return self.truncate_prompt_tokens is not None or self.truncate not in (None, False, "NONE")

    @property
    def keeps_end(self) -> bool:
        """Whether truncation keeps the end of an input instead of its beginning."""
        return self.truncation_side == "left" or self.truncate == "START"

    def check(self) -> None:
        """Raise InvalidRequest for truncation fields that contradict each other."""
        if self.truncation_side is not None and not self.is_truncated:
            raise InvalidRequest("truncation_side needs truncate_prompt_tokens or truncate", param="truncation_side")
        if self.truncate_prompt_tokens is not None and self.truncate in (False, "NONE"):
            raise InvalidRequest(
                f"truncate_prompt_tokens is given, but truncate is {self.truncate!r}; leave out one of them",
                param="truncate",
            )
        if (self.truncation_side, self.truncate) in (("left", "END"), ("right", "START")):
            raise InvalidRequest(
                f"truncation_side is {self.truncation_side!r} and truncate is {self.truncate!r}, which cut different "
                "ends; leave out one of them",
                param="truncate",
            )


class InputFields(PoolingFields):
    """Several inputs, or a conversation that the chat template renders as one input."""

    input: Inputs | None = None
    messages: Annotated[list[Message], Field(fail_fast=True, min_length=1, max_length=MAX_MESSAGES)] | None = None
    add_special_tokens: bool | None = None  # for texts; a chat template has its own
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    prompt_name: str | None = None  # name of one of the model's prompts
    input_type: str | None = None  # use of the inputs, such as query or document

    inner_fields = ("messages",)

    def check(self) -> None:
        """Raise InvalidRequest unless either input or messages is given, with only the fields that go with it."""
        super().check()
        if self.input is None and self.messages is None:
            raise InvalidRequest("input is missing; it is required unless messages are given", param="input")
        if self.input is not None and self.messages is not None:
            raise InvalidRequest("input and messages are both given; leave out one of them", param="messages")
        names = _OF_CHATS if self.messages is None else _OF_TEXTS
        for name in names:
            if getattr(self, name) is not None:
                needed = "messages" if self.messages is None else "input"
                raise InvalidRequest(f"{name} needs {needed}", param=name)
        if self.prompt_name is not None and self.input_type is not None:
            raise InvalidRequest("prompt_name and input_type are both given; leave out one of them", param="input_type")

    @property
    def chat(self) -> ChatTemplateFields:
        """The conversation, as the fields that determine a chat's prompt."""
        return ChatTemplateFields.model_construct(
            messages=self.messages,
            add_generation_prompt=bool(self.add_generation_prompt),
            continue_final_message=self.continue_final_message,
            chat_template_kwargs=self.chat_template_kwargs,
            add_special_tokens=self.add_special_tokens,
        )


_OF_CHATS = ("add_generation_prompt", "continue_final_message", "chat_template_kwargs")
_OF_TEXTS = ("prompt_name", "input_type")


class VectorFields(InputFields):
    encoding_format: Annotated[_Encoding, BeforeValidator(_encoding, json_schema_input_type=_Encoding)] = None
    dimensions: Annotated[int, Field(ge=1, le=INT32)] | None = None
    normalize: bool | None = None
    use_activation: bool | None = None  # vLLM's name of normalize

    @property
    def is_base64(self) -> bool:
        return self.encoding_format == "base64"

    @property
    def normalized(self) -> bool | None:
        """Whether to normalize vectors; None for the model's default. Raises InvalidRequest if `normalize`
        and `use_activation` differ."""
        first, second = self.normalize, self.use_activation
        if first is not None and second is not None and first != second:
            raise InvalidRequest(
                "normalize and use_activation are two names of one field, and differ; leave out one of them",
                param="use_activation",
            )
        return second if first is None else first


class EmbeddingRequest(VectorFields):
    """The body of POST /v1/embeddings."""


def _norm(value: Any) -> Any:
    if value in (None, -1, 2) and not isinstance(value, bool):
        return value
    raise PydanticCustomError("embd_normalize", "it must be 2 (length 1) or -1 (the model's own length)")


class LlamaEmbeddingRequest(PoolingFields):
    """The body of POST /embedding, in llama-server's shape."""

    content: Annotated[list[str] | list[list[int]], _inputs_named("content")]
    embd_normalize: Annotated[int | None, BeforeValidator(_norm, json_schema_input_type=Literal[-1, 2] | None)] = None

    @property
    def embedding(self) -> EmbeddingRequest:
        """The same request in OpenAI's shape."""
        fields = {name: getattr(self, name) for name in PoolingFields.model_fields}
        return EmbeddingRequest.model_construct(**fields, **(self.model_extra or {}), input=self.content)

    @property
    def normalized(self) -> bool:
        return self.embd_normalize != -1


class PoolingBody(VectorFields):
    """The body of POST /pooling."""

    task: Annotated[Task | None, BeforeValidator(_task, json_schema_input_type=Task | None)] = None


class ClassifyRequest(InputFields):
    """The body of POST /classify."""

    use_activation: bool | None = None
