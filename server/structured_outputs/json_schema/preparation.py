"""prepare_schema: rewrites a client's JSON schema for a grammar, and lists the keywords that are not enforced."""

from dataclasses import dataclass, field
from typing import Any

from engine.errors import InvalidRequest
from server.structured_outputs.json_schema.checking import MAX_DEPTH, check_limits, check_schema
from server.structured_outputs.json_schema.references import References
from server.structured_outputs.json_schema.rewriting.finite import NoValueError, ending_schema
from server.structured_outputs.json_schema.rewriting.translation import Translation

ANY_WHITESPACE = r"[ \t\r\n]{1,32}"  # bounded, since a model may otherwise write blanks until its last token


@dataclass(frozen=True, slots=True)
class PreparedSchema:
    """A schema for `GrammarBuilder.json`. ignored: paths of the client's keywords that are not enforced."""

    schema: dict[str, Any] | bool
    ignored: list[str] = field(default_factory=list)


def prepare_schema(schema: Any, *, param: str, is_strict: bool, whitespace: str | None = None) -> PreparedSchema:
    """Rewrite a JSON schema with only the keywords that llguidance enforces.

    param: the path of the schema in the body, for errors. is_strict: refuse keywords that cannot be enforced instead of
    listing them. whitespace: a regular expression for whitespace between the tokens of the JSON text; None means no
    whitespace. Raises InvalidRequest and UnsupportedParameter.
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
            f"{param} is nested too deeply if its references are followed; the limit is about {MAX_DEPTH} levels; "
            "simplify it",
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
        return InvalidRequest(f"no value can match {param}, because of {path}: {reason}; change it", param=path)
    remedy = "make the inner $ref optional" if translation.has_references else "change one of its parts"
    return InvalidRequest(
        f"{param} matches no finite JSON value, since its required parts are endless or contradictory; {remedy}",
        param=param,
    )


def _options(whitespace: str | None) -> dict[str, Any]:
    """Return llguidance's options for whitespace and separators in JSON text."""
    compact = {"whitespace_flexible": False, "item_separator": ",", "key_separator": ":"}
    return compact if whitespace is None else {**compact, "whitespace_pattern": whitespace}
