"""Strict validation of request bodies: no coercion, no 422, and errors that name the field, the value and the limit."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails, PydanticCustomError

from engine.errors import InvalidRequest, UnsupportedParameter
from engine.wording import quote as quote

TEXT_ONLY = "this server takes only text; leave it out"  # the refusal of images and other media in every protocol
UNSUPPORTED = "unsupported"  # type of the PydanticCustomError for known values that are not supported

Location = tuple[int | str, ...]  # keys and indices of a value

INT32 = 2**31 - 1
MAX_MESSAGES = 1 << 13  # of one request; checking them takes 50 ms

_UNKNOWN = object()  # a value that a validator made of another one

_MAX_NAMED = 8  # types of objects that an error message lists
_MAX_WHOLES = 64  # integers of a body that may be spelled as 16.0; for each, its containers are copied

# JSON's words for Pydantic's types of errors
_EXPECTED = {
    "bool_type": "true or false",
    "dict_type": "an object",
    "float_type": "a number",
    "int_type": "an integer",
    "list_type": "a list",
    "model_type": "an object",
    "string_type": "a string",
}
_COMPARISONS = {
    "greater_than_equal": ("greater than or equal to", "at least"),
    "less_than_equal": ("less than or equal to", "at most"),
    "greater_than": ("greater than", "above"),
    "less_than": ("less than", "below"),
}


class StrictModel(BaseModel):
    """A JSON object whose fields must have exactly the declared JSON types. Undeclared fields are kept in model_extra.

    inner_fields: names of fields that hold objects, or lists of objects or objects by name, whose undeclared fields are
    part of `extra`. A subclass lists only its own.
    """

    model_config = ConfigDict(strict=True, extra="allow", frozen=True, allow_inf_nan=False)
    inner_fields: ClassVar[tuple[str, ...]] = ()

    @property
    def extra(self) -> dict[str, Any]:
        """Undeclared fields of this object and of the objects in `inner_fields`, by their paths."""
        return {**(self.model_extra or {}), **self.inner_extra()}

    def inner_extra(self) -> dict[str, Any]:
        """Return the undeclared fields of the objects in `inner_fields`, by their paths."""
        extra: dict[str, Any] = {}
        for name in _inner_fields(type(self)):
            value = getattr(self, name)
            if isinstance(value, list):
                for index, part in enumerate(value):
                    extra |= extra_at(f"{name}[{index}]", part)
            elif isinstance(value, dict):
                for key, part in value.items():
                    extra |= extra_at(f"{name}.{key}", part)
            else:
                extra |= extra_at(name, value)
        return extra

    @property
    def passed_on(self) -> dict[str, Any]:
        """Undeclared fields, by their paths, that are not ignored, since they are passed to the chat template."""
        return {}


@functools.cache
def _inner_fields(model: type[StrictModel]) -> list[str]:
    """Return the `inner_fields` of the model and its base classes, base classes first."""
    return [name for each in reversed(model.__mro__) for name in vars(each).get("inner_fields", ())]


def extra_at(path: str, part: StrictModel | None) -> dict[str, Any]:
    """Return the undeclared fields of the object at `path` in a body, by their paths in the body."""
    return {} if part is None else {f"{path}.{name}": value for name, value in part.extra.items()}


def by_type(
    models: Mapping[str, type[StrictModel]], *, refused: Mapping[str, str] = {}, default: str | None = None
) -> Callable[[Any], Any]:
    """Return a validator that chooses an object's model by its `type`, with clearer errors than pydantic's union.

    refused: known types that are not supported, with the reason. default: the type of an object without a type.
    """

    def read(value: Any) -> Any:
        if not isinstance(value, dict):
            raise PydanticCustomError("object", "it must be an object")
        kind = value.get("type", default)
        if isinstance(kind, str) and kind in refused:
            raise PydanticCustomError(UNSUPPORTED, "its type is {kind}: {why}", {"kind": kind, "why": refused[kind]})
        model = models.get(kind) if isinstance(kind, str) else None
        if model is None:
            known = [*models][:_MAX_NAMED]
            raise PydanticCustomError(
                "type",
                "its type is {kind}; it must be one of {known}",
                {"kind": quote(kind), "known": ", ".join(known) + (", ..." if len(models) > _MAX_NAMED else "")},
            )
        return model.model_validate(value)

    return read


M = TypeVar("M", bound=StrictModel)


def validate(model: type[M], body: dict[str, Any]) -> M:
    """Validate the body as `model`. Raises InvalidRequest or UnsupportedParameter for the first error."""
    try:
        return _validate(model, body)
    except ValidationError as error:
        faults = error.errors(include_url=False)
        at = functools.partial(_location_in, body)
        fault, location = faults[0], at(faults[0])
        path = path_text(location)
        if fault["type"] == UNSUPPORTED:
            refused: InvalidRequest = UnsupportedParameter(
                f"{path} is {quote(fault['input'])}; {fault['msg']}", param=path
            )
        elif fault["type"] == "missing":
            refused = InvalidRequest(f"{path} is missing; it is required", param=path)
        else:
            # Members of a union, which each refuse the value.
            types = [_EXPECTED[each["type"]] for each in faults if each["type"] in _EXPECTED and at(each) == location]
            limit = f"it must be {' or '.join(types)}" if fault["type"] in _EXPECTED else _limit(fault)
            refused = InvalidRequest(f"{path} is {quote(fault['input'])}; {limit}", param=path)
        refused.location = location
        raise refused from None


def _validate(model: type[M], body: dict[str, Any]) -> M:
    """Validate the body as `model`, or raise ValidationError. Accepts integers written as 16.0 or 1e3, as JSON Schema
    does."""
    try:
        return model.model_validate(body)
    except ValidationError as error:
        faults = error.errors(include_url=False)
        wholes = [each for each in faults if each["type"] == "int_type" and _is_whole(each["input"])]
        if not 0 < len(wholes) <= _MAX_WHOLES:
            raise
        for each in wholes:
            body = _with(body, each["loc"], int(each["input"]))
    return model.model_validate(body)


def _is_whole(value: object) -> bool:
    return isinstance(value, float) and value.is_integer()


def _with(value: Any, location: Location, new: int) -> Any:
    """Return a copy of `value` with `new` at the location; an unchanged `value` if it has no such location, as when
    pydantic's location names a member of a union."""
    if not location:
        return new
    key = location[0]
    if isinstance(value, dict) and key in value:
        return {**value, key: _with(value[key], location[1:], new)}
    if isinstance(value, list) and isinstance(key, int) and key < len(value):
        return [*value[:key], _with(value[key], location[1:], new), *value[key + 1 :]]
    return value


def _location_in(body: Any, fault: ErrorDetails) -> Location:
    """Return the fault's location without the names of union members that pydantic adds, such as "list[int]"."""
    location: list[int | str] = []
    value, is_of_type = body, fault["type"] in _EXPECTED
    for key in fault["loc"]:
        is_key = value is _UNKNOWN or (isinstance(value, dict) and (key in value or not is_of_type))
        if isinstance(key, str) and not is_key:
            continue
        location.append(key)
        is_there = key in value if isinstance(value, dict) else isinstance(value, list) and key in range(len(value))
        value = value[key] if is_there else _UNKNOWN
    return tuple(location)


def path_text(location: Location) -> str:
    """Format the location as clients write it: messages[0].content[1].type."""
    path = ""
    for part in location:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else part
    return path


def _limit(fault: ErrorDetails) -> str:
    """Return the second half of an error message, which says what values the field may have."""
    match fault["type"]:
        case "too_short":
            return f"it must have at least {fault['ctx']['min_length']}"
        case "too_long":
            return f"it must have at most {fault['ctx']['max_length']}"
        case "string_too_short":
            return f"it must have at least {fault['ctx']['min_length']} character"
        case "string_too_long":
            return f"it must have at most {fault['ctx']['max_length']} characters"
    message = fault["msg"].replace("Input should be", "it must be")
    return message.replace(*_COMPARISONS.get(fault["type"], ("", "")))
