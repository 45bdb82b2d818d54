"""prepare_schema: a client's JSON schema as llguidance can enforce it, with what is not enforced named."""

from dataclasses import dataclass, field
from typing import Any

ANY_WHITESPACE = r"[ \t\r\n]{1,32}"  # bounded: a model may otherwise write blanks until its last token


@dataclass(frozen=True, slots=True)
class PreparedSchema:
    """schema: for `GrammarBuilder.json`. ignored: the paths of keywords that are not enforced."""

    schema: dict[str, Any] | bool
    ignored: list[str] = field(default_factory=list)


def prepare_schema(schema: Any, *, param: str, is_strict: bool, whitespace: str | None = None) -> PreparedSchema:
    """The schema as llguidance can enforce it.

    param: the path of the schema in the body, for errors. is_strict: refuse what cannot be enforced instead of listing
    it. whitespace: a regular expression of what may stand between the tokens of the JSON text; None is nothing.
    Raises InvalidRequest and UnsupportedParameter.
    """
    raise NotImplementedError
