"""constraint_of: the constraint on the answer that a request's fields set."""

from collections.abc import Mapping
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
from server.structured_outputs.json_schema.preparation import ANY_WHITESPACE
from server.structured_outputs.structural_tags import structural_tag_expression

CONSTRAINT_FIELDS = frozenset(StructuredFields.model_fields)  # the fields of a body that constraint_of reads

_CONSTRAINTS = ("json", "regex", "choice", "grammar", "json_object", "structural_tag")  # in structured_outputs
_OWN_FIELDS = (
    "guided_json",
    "guided_regex",
    "guided_choice",
    "guided_grammar",
    "regex",
    "ebnf",
    "json_schema",
    "structural_tag",
)
_JSON_OBJECT = {"type": "object"}
_SAME_KINDS = {"json_object": "json", "json_schema": "json", "ebnf": "grammar", "response_format": "structural_tag"}
_TAG_FIELDS = ("type", "structures", "triggers", "format")


@dataclass(frozen=True, slots=True)
class Constraint:
    """The constraint on the content of an answer, which does not apply to its reasoning.

    param: the field to name in the error if the engine refuses the grammar. ignored: paths of given keywords that are
    not enforced.
    """

    param: str
    ignored: list[str]
    expression: Expression = field(repr=False)


def unknown_fields(fields: Mapping[str, Any]) -> list[str]:
    """Return the paths of undeclared fields within the constraint fields. Raises InvalidRequest."""
    return list(_validated(fields).extra)


def constraint_of(fields: Mapping[str, Any]) -> Constraint | None:
    """Return the constraint that the body's CONSTRAINT_FIELDS set; None if they set none. Raises InvalidRequest and
    UnsupportedParameter with the path of the field."""
    body = _validated(fields)
    given = _given_constraints(body)
    if not given:
        _check_known(body)
        return None
    path, *others = given
    for other in others:
        if _meaning(other, given[other]) != _meaning(path, given[path]):  # guidance says the same in two fields
            raise InvalidRequest(
                f"{path} and {other} constrain the answer in different ways; give only one of them", param=other
            )
    return _constraint(path, given[path], body)


def _meaning(path: str, value: Any) -> tuple[str, Any]:
    """Return the kind of a constraint field and its value, which are equal for fields that say the same."""
    kind = path.split(".")[-1].removeprefix("guided_")
    if isinstance(value, ResponseFormat):
        if value.type == "json_schema":
            kind, value = "json", None if value.json_schema is None else value.json_schema.schema_
        elif value.type == "json_object":
            kind, value = "json", _JSON_OBJECT
        else:
            value = value.model_dump(include=set(_TAG_FIELDS), exclude_none=True)
    kind = _SAME_KINDS.get(kind, kind)
    if kind in ("json", "structural_tag") and isinstance(value, str):
        value = decode_field(value, path)
    return kind, value


def _validated(fields: Mapping[str, Any]) -> StructuredFields:
    return validate(StructuredFields, {name: fields[name] for name in CONSTRAINT_FIELDS & fields.keys()})


def _given_constraints(body: StructuredFields) -> dict[str, Any]:
    """Return the values of the constraint fields that are set, by their paths."""
    outputs = body.structured_outputs or StructuredOutputs()
    if outputs.disable_additional_properties:
        path = "structured_outputs.disable_additional_properties"
        raise UnsupportedParameter(
            f"{path} is not supported; put additionalProperties: false into the schema", param=path
        )
    is_text = body.response_format is None or body.response_format.type == "text"
    values = {
        "response_format": None if is_text else body.response_format,
        "structured_outputs.json": outputs.json_,
        "structured_outputs.regex": outputs.regex,
        "structured_outputs.choice": outputs.choice,
        "structured_outputs.grammar": outputs.grammar,
        "structured_outputs.json_object": _JSON_OBJECT if outputs.json_object else None,
        "structured_outputs.structural_tag": outputs.structural_tag,
        **{name: getattr(body, name) for name in _OWN_FIELDS},
    }
    return {path: value for path, value in values.items() if value is not None}


def _check_known(body: StructuredFields) -> None:
    """Raise InvalidRequest for an unknown field if no constraint is set: a typo would lead to unconstrained text."""
    for path in body.extra:
        owner = path.split(".")[0]
        takes = "a type other than text" if owner == "response_format" else ", ".join(_CONSTRAINTS)
        raise InvalidRequest(f"{path} is unknown, and {owner} sets no constraint; it takes {takes}", param=path)


def _constraint(path: str, value: Any, body: StructuredFields) -> Constraint:
    ignored = list(body.extra)
    whitespace = _whitespace(body)
    kind = path.split(".")[-1].removeprefix("guided_")
    match kind:
        case "response_format":
            return _response_format_constraint(value, ignored, whitespace)
        case "json" | "json_object" | "json_schema":
            return _json_constraint(value, path, ignored, whitespace)
        case "structural_tag":
            return _structural_tag_constraint(value, path, ignored, whitespace)
    ignored += _whitespace_fields(body)  # no effect without JSON
    match kind:
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
    """Return the pattern of whitespace between JSON tokens; None if the answer must have no whitespace."""
    given = _whitespace_fields(body)
    if len(given) > 1:
        first, second, *_ = given
        raise InvalidRequest(f"{first} and {second} both set the whitespace; give only one of them", param=second)
    for path, value in given.items():
        if isinstance(value, str):
            return json_whitespace(value, path)
        return None if value else ANY_WHITESPACE
    return None


def _whitespace_fields(body: StructuredFields) -> dict[str, str | bool]:
    outputs = body.structured_outputs or StructuredOutputs()
    given = {
        "guided_whitespace_pattern": body.guided_whitespace_pattern,
        "structured_outputs.whitespace_pattern": outputs.whitespace_pattern,
        "structured_outputs.disable_any_whitespace": outputs.disable_any_whitespace,
    }
    return {name: value for name, value in given.items() if value is not None}
