"""prepare_schema: a client's JSON schema as the grammar can enforce it, with what is not enforced named."""

from dataclasses import dataclass, field
from typing import Any

from engine.errors import InvalidRequest
from server.structured_outputs.checking import MAX_DEPTH, check_limits, check_schema
from server.structured_outputs.finite import NoValueError, ending_schema
from server.structured_outputs.references import References
from server.structured_outputs.translation import Translation

ANY_WHITESPACE = r"[ \t\r\n]{1,32}"  # bounded: a model may otherwise write blanks until its last token


@dataclass(frozen=True, slots=True)
class PreparedSchema:
    """schema: for `GrammarBuilder.json`. ignored: the paths of keywords that are not enforced."""

    schema: dict[str, Any] | bool
    ignored: list[str] = field(default_factory=list)


def prepare_schema(schema: Any, *, param: str, is_strict: bool, whitespace: str | None = None) -> PreparedSchema:
    """The schema in the keywords that llguidance enforces.

    param: the path of the schema in the body, for errors. is_strict: refuse what cannot be enforced instead of listing
    it. whitespace: a regular expression of what may stand between the tokens of the JSON text; None is nothing.
    Raises InvalidRequest and UnsupportedParameter.
    """
    location = (param,)
    check_limits(schema, location)
    references = References(schema, location)
    translation = Translation(references, is_strict=is_strict)
    try:
        check_schema(schema, location, references)
        root, definitions = ending_schema(*translation.run(schema, location), param)
    except RecursionError:
        raise InvalidRequest(
            f"{param} is nested too deeply, counting what its references lead to; the limit is about {MAX_DEPTH} "
            "levels: make it simpler",
            param=param,
        ) from None
    except NoValueError:
        raise _no_value(translation, param) from None
    written = {"x-guidance": _options(whitespace), **(root if isinstance(root, dict) else {})}
    if definitions:
        written["$defs"] = definitions
    return PreparedSchema(written, list(translation.ignored))


def _no_value(translation: Translation, param: str) -> InvalidRequest:
    for path, reason in translation.contradictions.items():
        return InvalidRequest(f"{path} leaves {param} no value that matches: {reason}; change one of them", param=path)
    remedy = "make the inner $ref optional" if translation.has_references else "change one of its parts"
    return InvalidRequest(
        f"{param} matches no finite JSON value: what is required in it has no end, or contradicts itself; {remedy}",
        param=param,
    )


def _options(whitespace: str | None) -> dict[str, Any]:
    """llguidance's, that say how the JSON text is spelled."""
    compact = {"whitespace_flexible": False, "item_separator": ",", "key_separator": ":"}
    return compact if whitespace is None else {**compact, "whitespace_pattern": whitespace}
