"""parse_grader: makes a Grader from a client's JSON, in the shapes of OpenAI's API."""

import enum
import sys
from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec

from engine.command_io.finetuning.graders.definitions import (
    Grader,
    GraderType,
    Multi,
    ScoreModel,
    Single,
    StringCheck,
    StringOperation,
    TextSimilarity,
)
from engine.command_io.finetuning.graders.formula import is_variable, parse_formula
from engine.command_io.finetuning.graders.score_inputs import parse_messages, parse_sampling
from engine.command_io.finetuning.graders.similarity import Metric
from engine.command_io.finetuning.graders.templates import Template, parse_template
from engine.errors import InvalidRequest, UnsupportedParameter
from engine.wording import quote

_MAX_BYTES = 1 << 18
_MAX_GRADERS = 32
_IGNORED = ("pass_threshold",)  # of evaluations, where a grade passes or fails; a reward is the grade itself
_UNSUPPORTED_TYPES = {
    "python": "this server does not run a client's code",
    "label_model": "it gives a label and not a reward; a score_model can score the same question",
    "endpoint": "this server sends nothing to other services",
}
_UNSUPPORTED_METRICS = {
    "meteor": "it needs a dictionary of synonyms, which this server does not have",
    "cosine": "it compares embeddings, which OpenAI has for evaluations alone",
}
_FIELDS = {
    GraderType.STRING_CHECK: ("operation", "input", "reference"),
    GraderType.TEXT_SIMILARITY: ("evaluation_metric", "input", "reference"),
    GraderType.SCORE_MODEL: ("model", "input", "range", "sampling_params"),
    GraderType.MULTI: ("graders", "calculate_output"),
}

E = TypeVar("E", bound=enum.StrEnum)


def parse_grader(body: object, param: str) -> Grader:
    """Check and parse a grader. param: the path of the body. Raises InvalidRequest and UnsupportedParameter."""
    if (num_bytes := len(msgspec.json.encode(body))) > _MAX_BYTES:
        raise InvalidRequest.of(param, f"has {num_bytes:,} bytes as JSON; it may have {_MAX_BYTES:,}")
    grader_type, given = _typed(body, param)
    if grader_type is not GraderType.MULTI:
        return _single(grader_type, given, param, grader_type.value)
    graders = _graders(given.get("graders"), f"{param}.graders")
    formula = parse_formula(_text(given, "calculate_output", param), graders, f"{param}.calculate_output")
    return Multi(_name(given, param, grader_type.value), graders, formula)


def ignored_fields(body: Mapping[str, Any], param: str) -> list[str]:
    """Return the paths of a valid grader's fields that have no effect here."""
    bodies = {param: body}
    if body.get("type") == GraderType.MULTI:
        bodies |= {f"{param}.graders.{name}": each for name, each in named_bodies(body["graders"]).items()}
    return [f"{path}.{name}" for path, each in bodies.items() for name in _IGNORED if each.get(name) is not None]


def with_names(body: dict[str, Any]) -> dict[str, Any]:
    """Fill in the names that a valid grader's body leaves out: OpenAI's types require them."""
    named = _named(body, body["type"])
    if body["type"] != GraderType.MULTI or named_bodies(body["graders"]) is not body["graders"]:
        return named
    return {**named, "graders": {name: _named(each, name) for name, each in body["graders"].items()}}


def _named(body: dict[str, Any], default: str) -> dict[str, Any]:
    return {**body, "name": default} if body.get("name") is None else body


def named_bodies(graders: dict[str, Any]) -> dict[str, Any]:
    """Return the graders of a multi grader by name. OpenAI's clients may send one grader instead of a mapping."""
    name = graders.get("name")
    return {name: graders} if isinstance(graders.get("type"), str) and isinstance(name, str) else graders


def _typed(body: object, param: str) -> tuple[GraderType, dict[str, Any]]:
    if not isinstance(body, dict):
        raise InvalidRequest.of(param, f"is {quote(body)}; it must be an object, a grader")
    given, path = body.get("type"), f"{param}.type"
    known = ", ".join(GraderType)
    if (reason := _UNSUPPORTED_TYPES.get(given) if isinstance(given, str) else None) is not None:
        raise UnsupportedParameter.of(path, f"is {quote(given)}: {reason}; graders here are {known}")
    if not isinstance(given, str) or given not in [*GraderType]:
        raise InvalidRequest.of(path, f"is {quote(given)}; it must be one of {known}")
    grader_type = GraderType(given)
    fields = ("type", "name", *_FIELDS[grader_type])
    if unknown := sorted(body.keys() - {*fields, *_IGNORED}):
        raise InvalidRequest.of(
            f"{param}.{unknown[0]}", f"is not known; a {grader_type} has {', '.join(fields)}: remove it"
        )
    return grader_type, body


def _graders(value: object, param: str) -> dict[str, Single]:
    if not isinstance(value, dict) or not value:
        shown = "empty" if value == {} else quote(value)
        raise InvalidRequest.of(param, f"is {shown}; it must be an object of graders by their names")
    bodies = named_bodies(value)
    if len(bodies) > _MAX_GRADERS:
        raise InvalidRequest.of(param, f"has {len(bodies)} graders; it may have {_MAX_GRADERS}")
    found: dict[str, Single] = {}
    for name, body in bodies.items():
        path = f"{param}.{name}"
        if not is_variable(name):
            raise InvalidRequest.of(
                param,
                f"has the name {quote(name)}, which calculate_output cannot use; take letters, digits and _, "
                "and not the name of a function",
            )
        grader_type, given = _typed(body, path)
        if grader_type is GraderType.MULTI:
            raise InvalidRequest.of(path, "is a multi grader within another; put its graders into the outer one")
        found[name] = _single(grader_type, given, path, name)
    return found


def _single(grader_type: GraderType, body: dict[str, Any], param: str, default_name: str) -> Single:
    name = _name(body, param, default_name)
    if grader_type is GraderType.SCORE_MODEL:
        low, high = _range(body.get("range"), f"{param}.range")
        return ScoreModel(
            name,
            _text(body, "model", param),
            parse_messages(body.get("input"), f"{param}.input"),
            low,
            high,
            parse_sampling(body.get("sampling_params"), f"{param}.sampling_params"),
        )
    texts = _template(body, "input", param), _template(body, "reference", param)
    if grader_type is GraderType.STRING_CHECK:
        return StringCheck(name, _member(StringOperation, body.get("operation"), f"{param}.operation"), *texts)
    return TextSimilarity(name, _metric(body.get("evaluation_metric"), f"{param}.evaluation_metric"), *texts)


def _metric(given: object, param: str) -> Metric:
    if (reason := _UNSUPPORTED_METRICS.get(given) if isinstance(given, str) else None) is not None:
        known = ", ".join(Metric)
        raise UnsupportedParameter.of(param, f"is {quote(given)}: {reason}; there are {known}")
    metric = _member(Metric, given, param)
    if not metric.is_available:
        raise UnsupportedParameter.of(
            param,
            f"is {quote(given)}, which needs rapidfuzz: pip install 'headrace[graders]' on the server, or "
            "another metric",
        )
    return metric


def _member(kind: type[E], given: object, param: str) -> E:
    if not isinstance(given, str) or given not in [*kind]:
        raise InvalidRequest.of(param, f"is {quote(given)}; it must be one of {', '.join(kind)}")
    return kind(given)


def _range(given: object, param: str) -> tuple[float, float]:
    if given is None:
        return 0.0, 1.0
    if not isinstance(given, list) or len(given) != 2:
        raise InvalidRequest.of(param, f"is {quote(given)}; it must be a list of two numbers")
    for index, each in enumerate(given):
        if not _is_number(each):
            raise InvalidRequest(
                f"{param}[{index}] is {quote(each)}; {param} must be a list of two numbers", param=param
            )
    low, high = map(float, given)
    if low >= high:
        raise InvalidRequest.of(param, f"is from {low:g} to {high:g}; the first must be below the second")
    return low, high


def _is_number(value: object) -> bool:
    """Return whether a value is a number, and finite as a float: JSON's integers can be larger."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def _template(body: dict[str, Any], name: str, param: str) -> Template:
    return parse_template(_text(body, name, param), f"{param}.{name}")


def _name(body: dict[str, Any], param: str, default: str) -> str:
    """Return the grader's name, or the default: OpenAI's types require a name, but its examples have none."""
    return default if body.get("name") is None else _text(body, "name", param)


def _text(body: dict[str, Any], name: str, param: str) -> str:
    path = f"{param}.{name}"
    if name not in body:
        raise InvalidRequest.of(path, "is missing; it is required")
    value = body[name]
    if not isinstance(value, str):
        raise InvalidRequest.of(path, f"is {quote(value)}; it must be a string")
    return value
