"""The body of POST /v1/completions."""

from collections.abc import Callable
from typing import Annotated, Any

from pydantic import AfterValidator, Field, PlainValidator, WithJsonSchema
from pydantic_core import PydanticCustomError

from engine.errors import InvalidRequest
from server.schemas.base import INT32, quote
from server.schemas.sampling import MAX_CHOICES, GenerationRequest, check_logprobs, is_token_ids

DEFAULT_MAX_TOKENS = 16
_LEAST_TOKENS = "it must be at least 1, or 0 with echo or prompt_logprobs"


_FORMS = "it must be a string, a list of strings, a list of token ids, or a list of such lists, none empty"
_ITEM_FORMS: dict[str, Callable[[Any], bool]] = {
    "a string": lambda item: isinstance(item, str),
    "a token id": lambda item: type(item) is int,
    "a list of token ids": is_token_ids,
}


def _prompts(value: Any) -> list[str] | list[list[int]]:
    """Convert a prompt in any of its four forms to a list of prompts. A union would report an error for each item."""
    if isinstance(value, str):
        return [value]
    if is_token_ids(value):
        return [value]
    if (
        isinstance(value, list)
        and value
        and (all(isinstance(item, str) for item in value) or all(map(is_token_ids, value)))
    ):
        return value
    raise PydanticCustomError("prompt", "{problem}{forms}", {"problem": _mixed(value), "forms": _FORMS})


def _mixed(value: Any) -> str:
    """Return which items of a list differ in their form, or "" if the first has none of the forms."""
    items = value if isinstance(value, list) else []
    form = next((name for name, has_form in _ITEM_FORMS.items() if items and has_form(items[0])), None)
    if form is None:
        return ""
    index = next(index for index, item in enumerate(items) if not _ITEM_FORMS[form](item))
    return f"its items are mixed: item 0 is {form}, and item {index} is {quote(items[index])}; "


def _checked_max_tokens(value: int) -> int:
    if value < 0:
        raise PydanticCustomError("max_tokens", _LEAST_TOKENS)
    return value


_MaxTokens = Annotated[
    int,
    Field(le=INT32),
    AfterValidator(_checked_max_tokens),
    WithJsonSchema({"type": "integer", "minimum": 0, "maximum": INT32}),
]
_PromptForms = str | list[str] | list[int] | list[list[int]]
Prompts = Annotated[list[str] | list[list[int]], PlainValidator(_prompts, json_schema_input_type=_PromptForms)]


class CompletionRequest(GenerationRequest):
    prompt: Prompts
    max_tokens: _MaxTokens | None = None
    echo: bool | None = None
    logprobs: int | None = None
    suffix: str | None = None
    best_of: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None

    @property
    def num_candidates(self) -> int:
        return self.num_choices if self.best_of is None else self.best_of

    def check(self, max_logprobs: int) -> None:
        """Raise InvalidRequest for fields that exclude each other."""
        if self.num_candidates < self.num_choices:
            raise InvalidRequest(
                f"best_of is {self.best_of} and n is {self.num_choices}; best_of must be at least n", param="best_of"
            )
        if self.num_candidates > self.num_choices and self.stream:
            raise InvalidRequest(
                f"best_of is {self.best_of} and n is {self.num_choices}; the best answers are known only when all have "
                "ended, so they cannot be streamed; leave out stream or best_of",
                param="best_of",
            )
        if self.max_tokens == 0 and not self.echo and self.prompt_logprobs is None:
            raise InvalidRequest(f"max_tokens is 0; {_LEAST_TOKENS}", param="max_tokens")
        if self.max_tokens == 0 and self.logprob_token_ids:
            raise InvalidRequest(
                "logprob_token_ids needs generated tokens, but max_tokens is 0", param="logprob_token_ids"
            )
        for name in ("echo", "truncate_prompt_tokens"):
            if self.suffix and getattr(self, name):
                raise InvalidRequest(
                    f"suffix and {name} are both given, but the prompt with a suffix is more than the text before it; "
                    f"leave out {name}",
                    param=name,
                )
        if self.logprobs is not None:
            check_logprobs(self.logprobs, max_logprobs, "logprobs")
