"""constraint_of: what a request asks its answer to match."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from engine.errors import InvalidRequest, UnsupportedParameter
from server.schemas.base import validate
from server.structured_outputs.expressions import (
    Expression,
    of_choices,
    of_grammar,
    of_regex,
    of_schema,
    parsed,
    whitespace_of,
)
from server.structured_outputs.fields import ResponseFormat, StructuredFields, StructuredOutputs
from server.structured_outputs.grammar import GrammarBuilder
from server.structured_outputs.json_schema import ANY_WHITESPACE
from server.structured_outputs.structural_tags import of_structural_tag

__all__ = ["FIELDS", "Constraint", "ResponseFormat", "StructuredOutputs", "constraint_of", "unknown_fields"]

FIELDS = frozenset(StructuredFields.model_fields)  # those of a body that constraint_of reads

_ASKING = ("json", "regex", "choice", "grammar", "json_object", "structural_tag")  # of structured_outputs
_JSON_OBJECT = {"type": "object"}


@dataclass(frozen=True, slots=True)
class Constraint:
    """What the body of an answer must match. param: the field to blame if the engine refuses the grammar.

    ignored: the paths of what was given and is not enforced.
    """

    param: str
    ignored: list[str]
    write: Expression = field(repr=False)

    def expression(self, builder: GrammarBuilder) -> str:
        """The expression that the body of the answer matches."""
        return self.write(builder)


def unknown_fields(fields: Mapping[str, Any]) -> list[str]:
    """The paths of what is unknown within the fields that `constraint_of` reads. Raises InvalidRequest."""
    return list(_validated(fields).extra)


def constraint_of(fields: Mapping[str, Any]) -> Constraint | None:
    """fields: those of the body that are in FIELDS, as they came. None where they ask for nothing.

    Raises InvalidRequest and UnsupportedParameter with the path of the field.
    """
    body = _validated(fields)
    asked = list(_asked(body))
    if not asked:
        _check_known(body)
        return None
    if len(asked) > 1:
        raise InvalidRequest(
            f"{asked[0]} and {asked[1]} both say what the answer must match; give one of them", param=asked[1]
        )
    return _constraint(asked[0], body)


def _validated(fields: Mapping[str, Any]) -> StructuredFields:
    return validate(StructuredFields, {name: fields[name] for name in FIELDS & fields.keys()})


def _asked(body: StructuredFields) -> Iterator[str]:
    """The paths of all fields that ask for something."""
    if body.response_format is not None and body.response_format.type != "text":
        yield "response_format"
    outputs = body.structured_outputs
    if outputs is not None:
        values = {
            "json": outputs.json_,
            "regex": outputs.regex,
            "choice": outputs.choice,
            "grammar": outputs.grammar,
            "json_object": outputs.json_object or None,
            "structural_tag": outputs.structural_tag,
        }
        yield from (f"structured_outputs.{name}" for name, value in values.items() if value is not None)
        if outputs.disable_additional_properties:
            path = "structured_outputs.disable_additional_properties"
            raise UnsupportedParameter(
                f"{path} is not supported; write additionalProperties: false into the schema", param=path
            )
    for name in (
        "guided_json",
        "guided_regex",
        "guided_choice",
        "guided_grammar",
        "regex",
        "ebnf",
        "json_schema",
        "structural_tag",
    ):
        if getattr(body, name) is not None:
            yield name


def _check_known(body: StructuredFields) -> None:
    """Raise InvalidRequest for an unknown field where nothing is asked for: a typo would give free text."""
    for path in body.extra:
        owner = path.split(".")[0]
        takes = "a type other than text" if owner == "response_format" else ", ".join(_ASKING)
        raise InvalidRequest(f"{path} is unknown, and {owner} asks for nothing; it takes {takes}", param=path)


def _constraint(path: str, body: StructuredFields) -> Constraint:
    ignored = list(body.extra)
    whitespace = _whitespace(body)
    outputs = body.structured_outputs or StructuredOutputs()
    match path:
        case "response_format":
            assert body.response_format is not None
            return _of_response_format(body.response_format, ignored, whitespace)
        case "structured_outputs.json":
            return _of_json(outputs.json_, path, ignored, whitespace)
        case "guided_json" | "json_schema":
            return _of_json(getattr(body, path), path, ignored, whitespace)
        case "structured_outputs.json_object":
            return _of_json(_JSON_OBJECT, path, ignored, whitespace)
        case "structured_outputs.structural_tag":
            return _of_tag(outputs.structural_tag, path, ignored, whitespace)
        case "structural_tag":
            return _of_tag(body.structural_tag, path, ignored, whitespace)
    ignored += _whitespace_fields(body)  # there is no JSON to have any
    owner, name = (outputs, path.split(".")[1]) if "." in path else (body, path)
    value = getattr(owner, name)
    match name.removeprefix("guided_"):
        case "regex":
            return Constraint(path, ignored, of_regex(value, path))
        case "choice":
            return Constraint(path, ignored, of_choices(value, path))
    return Constraint(path, ignored, of_grammar(value, path))


def _of_response_format(response_format: ResponseFormat, ignored: list[str], whitespace: str | None) -> Constraint:
    path = "response_format"
    match response_format.type:
        case "json_schema":
            wanted = response_format.json_schema
            path = "response_format.json_schema"
            if wanted is None or wanted.schema_ is None:
                missing = path if wanted is None else f"{path}.schema"
                raise InvalidRequest(f"{missing} is missing; it is required", param=missing)
            return _of_json(wanted.schema_, f"{path}.schema", ignored, whitespace, is_strict=bool(wanted.strict))
        case "structural_tag":
            return _of_tag(response_format.model_dump(), path, ignored, whitespace)
    return _of_json(_JSON_OBJECT, path, ignored, whitespace)


def _of_json(
    schema: Any, path: str, ignored: list[str], whitespace: str | None, *, is_strict: bool = False
) -> Constraint:
    write, prepared = of_schema(schema, path, is_strict=is_strict, whitespace=whitespace)
    return Constraint(path, ignored + prepared.ignored, write)


def _of_tag(tag: Any, path: str, ignored: list[str], whitespace: str | None) -> Constraint:
    tag = parsed(tag, path) if isinstance(tag, str) else tag
    write = of_structural_tag(tag, path, ignored, whitespace=whitespace)
    return Constraint(path, ignored, write)


def _whitespace(body: StructuredFields) -> str | None:
    """What may stand between the tokens of JSON: the client's pattern, any if it says so, and else nothing."""
    outputs = body.structured_outputs
    given = _whitespace_fields(body)
    if len(given) > 1:
        raise InvalidRequest(f"{given[0]} and {given[1]} both speak of whitespace; give one of them", param=given[1])
    if body.guided_whitespace_pattern is not None:
        return whitespace_of(body.guided_whitespace_pattern, "guided_whitespace_pattern")
    if outputs is not None and outputs.whitespace_pattern is not None:
        return whitespace_of(outputs.whitespace_pattern, "structured_outputs.whitespace_pattern")
    return ANY_WHITESPACE if outputs is not None and outputs.disable_any_whitespace is False else None


def _whitespace_fields(body: StructuredFields) -> list[str]:
    outputs = body.structured_outputs or StructuredOutputs()
    given = {
        "guided_whitespace_pattern": body.guided_whitespace_pattern,
        "structured_outputs.whitespace_pattern": outputs.whitespace_pattern,
        "structured_outputs.disable_any_whitespace": outputs.disable_any_whitespace,
    }
    return [name for name, value in given.items() if value is not None]
