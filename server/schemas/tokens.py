"""Bodies of POST /tokenize and /detokenize, in vLLM's shapes."""

from typing import Annotated

from pydantic import Field

from server.schemas.base import StrictModel
from server.schemas.chat import ChatTemplateFields


class TokenizeTextRequest(StrictModel):
    model: str | None = None
    prompt: str
    add_special_tokens: bool | None = None
    parse_special: bool | None = None
    return_token_strs: bool | None = None


class TokenizeChatRequest(ChatTemplateFields):
    model: str | None = None
    return_token_strs: bool | None = None


class DetokenizeRequest(StrictModel):
    model: str | None = None
    tokens: Annotated[list[Annotated[int, Field(ge=0)]], Field(fail_fast=True)]
