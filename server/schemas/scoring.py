"""Bodies of /score and /rerank: texts to compare, or a query and the documents to rank."""

from typing import Annotated, Any

from pydantic import Field, PlainValidator
from pydantic_core import PydanticCustomError

from engine.errors import InvalidRequest, UnsupportedParameter
from server.schemas.base import INT32, StrictModel, quote
from server.schemas.pooling import PoolingFields, check_number


def _texts(value: Any, name: str) -> list[str]:
    """Convert one text or a list of texts, each a string or an object with a text, to a list of strings.

    Raises InvalidRequest with the path of the first invalid item.
    """
    items = value if isinstance(value, list) else [value]
    if not items:
        raise PydanticCustomError("texts", "it must be a string or a nonempty list of strings")
    check_number(len(items), name)
    return [_text(item, f"{name}[{number}]" if items is value else name) for number, item in enumerate(items)]


def _text(item: Any, path: str) -> str:
    if isinstance(item, dict) and isinstance(item.get("text"), str):
        others = [key for key in item if key not in ("text", "type")]
        if others:
            raise UnsupportedParameter(
                f"{path}.{others[0][:40]} is not supported, since this server takes only text; leave it out",
                param=f"{path}.{others[0][:40]}",
            )
        item = item["text"]
    if not isinstance(item, str):
        raise InvalidRequest(f"{path} is {quote(item)}; it must be a string or an object with a text", param=path)
    return item


class TextObject(StrictModel):
    text: str


_TextForms = str | TextObject | list[str | TextObject]


def _named(name: str) -> PlainValidator:
    return PlainValidator(lambda value: _texts(value, name), json_schema_input_type=_TextForms)


class RerankRequest(PoolingFields):
    """The body of POST /rerank, in the shape of Cohere's, Jina's and vLLM's APIs."""

    query: Annotated[str, PlainValidator(lambda value: _text(value, "query"), json_schema_input_type=str | TextObject)]
    documents: Annotated[list[str], _named("documents")]
    top_n: Annotated[int, Field(ge=0, le=INT32)] | None = None  # 0 is all
    return_documents: bool | None = None
    max_tokens_per_doc: Annotated[int, Field(ge=1, le=INT32)] | None = None
    use_activation: bool | None = None


class ScoreRequest(PoolingFields):
    """The body of POST /score, in vLLM's shape: one text to compare with n others, or n pairs."""

    text_1: Annotated[list[str], _named("text_1")] | None = None
    text_2: Annotated[list[str], _named("text_2")] | None = None
    queries: Annotated[list[str], _named("queries")] | None = None  # other names of text_1 and text_2
    documents: Annotated[list[str], _named("documents")] | None = None
    use_activation: bool | None = None

    def check(self) -> None:
        super().check()
        _ = self.pairs

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """Pairs of texts to score. Raises InvalidRequest if the numbers of texts do not match."""
        first_name, first = self._side("text_1", "queries")
        second_name, second = self._side("text_2", "documents")
        if len(first) not in (1, len(second)):
            raise InvalidRequest(
                f"{first_name} has {len(first)} texts and {second_name} has {len(second)}; give {first_name} one text, "
                "or as many",
                param=first_name,
            )
        return list(zip(first * (len(second) if len(first) == 1 else 1), second, strict=True))

    @property
    def first_name(self) -> str:
        """Name under which the request gives the first texts."""
        return "queries" if self.text_1 is None else "text_1"

    @property
    def second_name(self) -> str:
        """Name under which the request gives the second texts."""
        return "documents" if self.text_2 is None else "text_2"

    def _side(self, name: str, other: str) -> tuple[str, list[str]]:
        value, other_value = getattr(self, name), getattr(self, other)
        if value is not None and other_value is not None:
            raise InvalidRequest(f"{name} and {other} are two names of one field; leave out one of them", param=other)
        if value is None and other_value is None:
            raise InvalidRequest(f"{name} is missing; it is required", param=name)
        return (other, other_value) if value is None else (name, value)
