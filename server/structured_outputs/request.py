"""constraint_of: the constraint that a request's fields set for its answer."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from engine.errors import InvalidRequest, UnsupportedParameter
from server.schemas.base import validate
from server.structured_outputs.expressions import (
    Expression,
    choices_expression,
    decode_field,
    grammar_expression,
    json_whitespace,
    regex_expression,
    schema_expression,
)
from server.structured_outputs.fields import ResponseFormat, StructuredFields, StructuredOutputs
from server.structured_outputs.grammar import GrammarBuilder
from server.structured_outputs.json_schema.preparation import ANY_WHITESPACE
from server.structured_outputs.structural_tags import structural_tag_expression

CONSTRAINT_FIELDS = frozenset(StructuredFields.model_fields)  # the fields of a body that constraint_of reads

_CONSTRAINTS = ("json", "regex", "choice", "grammar", "json_object", "structural_tag")  # in structured_outputs
_JSON_OBJECT = {"type": "object"}


@dataclass(frozen=True, slots=True)
class Constraint:
    """The constraint on an answer, without its reasoning.

    param: the field that an error names if the engine refuses the grammar. ignored: paths of given keywords that are
    not enforced.
    """

    param: str
    ignored: list[str]
    write: Expression = field(repr=False)

    def expression(self, builder: GrammarBuilder) -> str:
        """Return the expression that the answer must match."""
        return self.write(builder)


def unknown_fields(fields: Mapping[str, Any]) -> list[str]:
    """Return the paths of unknown fields within the fields that `constraint_of` reads. Raises InvalidRequest."""
    return list(_validated(fields).extra)


def constraint_of(fields: Mapping[str, Any]) -> Constraint | None:
    """Return the constraint that the body's CONSTRAINT_FIELDS set; None if they set none.

    Raises InvalidRequest and UnsupportedParameter with the path of the field.
    """
    body = _validated(fields)
    paths = list(_constraint_paths(body))
    if not paths:
        _check_known(body)
        return None
    if len(paths) > 1:
        raise InvalidRequest(
            f"{paths[0]} and {paths[1]} both constrain the answer; give only one of them", param=paths[1]
        )
    return _constraint(paths[0], body)


def _validated(fields: Mapping[str, Any]) -> StructuredFields:
    return validate(StructuredFields, {name: fields[name] for name in CONSTRAINT_FIELDS & fields.keys()})


def _constraint_paths(body: StructuredFields) -> Iterator[str]:
    """Yield the paths of all fields that set a constraint."""
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
                f"{path} is not supported; put additionalProperties: false into the schema", param=path
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
    """Raise InvalidRequest for an unknown field if no constraint is set, since a typo would lead to free text."""
    for path in body.extra:
        owner = path.split(".")[0]
        takes = "a type other than text" if owner == "response_format" else ", ".join(_CONSTRAINTS)
        raise InvalidRequest(f"{path} is unknown, and {owner} sets no constraint; it takes {takes}", param=path)


def _constraint(path: str, body: StructuredFields) -> Constraint:
    ignored = list(body.extra)
    whitespace = _whitespace(body)
    outputs = body.structured_outputs or StructuredOutputs()
    match path:
        case "response_format":
            assert body.response_format is not None
            return _response_format_constraint(body.response_format, ignored, whitespace)
        case "structured_outputs.json":
            return _json_constraint(outputs.json_, path, ignored, whitespace)
        case "guided_json" | "json_schema":
            return _json_constraint(getattr(body, path), path, ignored, whitespace)
        case "structured_outputs.json_object":
            return _json_constraint(_JSON_OBJECT, path, ignored, whitespace)
        case "structured_outputs.structural_tag":
            return _structural_tag_constraint(outputs.structural_tag, path, ignored, whitespace)
        case "structural_tag":
            return _structural_tag_constraint(body.structural_tag, path, ignored, whitespace)
    ignored += _whitespace_fields(body)  # no effect without JSON
    owner, name = (outputs, path.split(".")[1]) if "." in path else (body, path)
    value = getattr(owner, name)
    match name.removeprefix("guided_"):
        case "regex":
            return Constraint(path, ignored, regex_expression(value, path))
        case "choice":
            return Constraint(path, ignored, choices_expression(value, path))
    return Constraint(path, ignored, grammar_expression(value, path))


def _response_format_constraint(
    response_format: ResponseFormat, ignored: list[str], whitespace: str | None
) -> Constraint:
    path = "response_format"
    match response_format.type:
        case "json_schema":
            given = response_format.json_schema
            path = "response_format.json_schema"
            if given is None or given.schema_ is None:
                missing = path if given is None else f"{path}.schema"
                raise InvalidRequest(f"{missing} is missing; it is required", param=missing)
            return _json_constraint(given.schema_, f"{path}.schema", ignored, whitespace, is_strict=bool(given.strict))
        case "structural_tag":
            return _structural_tag_constraint(response_format.model_dump(), path, ignored, whitespace)
    return _json_constraint(_JSON_OBJECT, path, ignored, whitespace)


def _json_constraint(
    schema: Any, path: str, ignored: list[str], whitespace: str | None, *, is_strict: bool = False
) -> Constraint:
    write, prepared = schema_expression(schema, path, is_strict=is_strict, whitespace=whitespace)
    return Constraint(path, ignored + prepared.ignored, write)


def _structural_tag_constraint(tag: Any, path: str, ignored: list[str], whitespace: str | None) -> Constraint:
    tag = decode_field(tag, path) if isinstance(tag, str) else tag
    write = structural_tag_expression(tag, path, ignored, whitespace=whitespace)
    return Constraint(path, ignored, write)


def _whitespace(body: StructuredFields) -> str | None:
    """Return the client's pattern of whitespace between JSON tokens, or any if the client allows it, or None."""
    outputs = body.structured_outputs
    given = _whitespace_fields(body)
    if len(given) > 1:
        raise InvalidRequest(
            f"{given[0]} and {given[1]} both set the whitespace; give only one of them", param=given[1]
        )
    if body.guided_whitespace_pattern is not None:
        return json_whitespace(body.guided_whitespace_pattern, "guided_whitespace_pattern")
    if outputs is not None and outputs.whitespace_pattern is not None:
        return json_whitespace(outputs.whitespace_pattern, "structured_outputs.whitespace_pattern")
    return ANY_WHITESPACE if outputs is not None and outputs.disable_any_whitespace is False else None


def _whitespace_fields(body: StructuredFields) -> list[str]:
    outputs = body.structured_outputs or StructuredOutputs()
    given = {
        "guided_whitespace_pattern": body.guided_whitespace_pattern,
        "structured_outputs.whitespace_pattern": outputs.whitespace_pattern,
        "structured_outputs.disable_any_whitespace": outputs.disable_any_whitespace,
    }
    return [name for name, value in given.items() if value is not None]
