"""Request fields that constrain the answer, under the names of OpenAI, vLLM and SGLang."""

from typing import Annotated, Any, Literal

from pydantic import Field

from server.schemas.base import StrictModel

Texts = Annotated[list[str], Field(fail_fast=True)]


class ResponseSchema(StrictModel):
    name: str | None = None
    description: str | None = None
    schema_: Any = Field(default=None, alias="schema")
    strict: bool | None = None


class ResponseFormat(StrictModel):
    """OpenAI's `response_format`. A structural tag has `structures` and `triggers`, or `format`."""

    type: Literal["text", "json_object", "json_schema", "structural_tag"]
    json_schema: ResponseSchema | None = None
    structures: Any = None
    triggers: Any = None
    format: Any = None


class StructuredOutputs(StrictModel):
    json_: Any = Field(default=None, alias="json")
    regex: str | None = None
    choice: Texts | None = None
    grammar: str | None = None
    json_object: bool | None = None
    structural_tag: Any = None
    whitespace_pattern: str | None = None
    disable_any_whitespace: bool | None = None
    disable_additional_properties: bool | None = None


class StructuredFields(StrictModel):
    """All request fields that constrain an answer. The guided_* fields are vLLM's older form of `structured_outputs`;
    the last four fields are SGLang's."""

    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    guided_json: Any = None
    guided_regex: str | None = None
    guided_choice: Texts | None = None
    guided_grammar: str | None = None
    guided_whitespace_pattern: str | None = None
    regex: str | None = None
    ebnf: str | None = None
    json_schema: Any = None
    structural_tag: Any = None

    @property
    def extra(self) -> dict[str, Any]:
        """Undeclared fields of the nested objects, by their paths."""
        nested = {
            "response_format": self.response_format,
            "response_format.json_schema": self.response_format and self.response_format.json_schema,
            "structured_outputs": self.structured_outputs,
        }
        return {
            f"{path}.{name}": value
            for path, model in nested.items()
            if model is not None
            for name, value in (model.model_extra or {}).items()
            if value is not None
        }
