"""Keywords of JSON Schema: the valid values of each, and the kinds of instances that it applies to."""

from collections.abc import Callable, Mapping
from typing import Any

from engine.errors import InvalidRequest
from server.schemas.base import Location, path_text, quote
from server.structured_outputs.json_schema.kinds import ARRAY, NUMBERS, OBJECT, STRING, TYPES, Kinds
from server.structured_outputs.json_schema.numbers import MAX_SIZE

# Keywords that describe a value and do not restrict it
ANNOTATIONS = frozenset(
    {
        "$anchor",
        "$comment",
        "$defs",
        "$id",
        "$schema",
        "$vocabulary",
        "contentEncoding",
        "contentMediaType",
        "contentSchema",
        "default",
        "definitions",
        "deprecated",
        "description",
        "example",
        "examples",
        "id",
        "readOnly",
        "title",
        "writeOnly",
    }
)

NUMBER_KEYWORDS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")
STRING_KEYWORDS = ("minLength", "maxLength", "pattern", "format")
ARRAY_KEYWORDS = (
    "prefixItems",
    "items",
    "additionalItems",
    "minItems",
    "maxItems",
    "uniqueItems",
    "contains",
    "minContains",
    "maxContains",
    "unevaluatedItems",
)
OBJECT_KEYWORDS = (
    "properties",
    "patternProperties",
    "additionalProperties",
    "required",
    "minProperties",
    "maxProperties",
    "propertyNames",
    "dependencies",
    "dependentRequired",
    "dependentSchemas",
    "unevaluatedProperties",
)

SIZE_KEYWORDS: Mapping[str, tuple[str, str]] = {
    STRING: ("minLength", "maxLength"),
    ARRAY: ("minItems", "maxItems"),
    OBJECT: ("minProperties", "maxProperties"),
}

CONCERNS: Mapping[str, Kinds] = {
    **dict.fromkeys(NUMBER_KEYWORDS, NUMBERS),
    **dict.fromkeys(STRING_KEYWORDS, frozenset({STRING})),
    **dict.fromkeys(ARRAY_KEYWORDS, frozenset({ARRAY})),
    **dict.fromkeys(OBJECT_KEYWORDS, frozenset({OBJECT})),
}

# Keywords that apply schemas to the instance itself, not to its items or properties
IN_PLACE = ("allOf", "anyOf", "oneOf", "not", "if", "then", "else", "$ref", "dependencies", "dependentSchemas")

# Values of `format` that are enforced, by llguidance and by a pattern. Others are annotations, as in JSON Schema.
FORMATS = frozenset({"date", "date-time", "duration", "email", "hostname", "ipv4", "ipv6", "time", "uri", "uuid"})

_POINTER = "(?:/(?:[^/~]|~[01])*)*"  # RFC 6901
_IN_PATH = r"(?:[A-Za-z0-9._~!$&'()*+,;=:@\-]|%[0-9A-Fa-f]{2})"  # RFC 3986: pchar
_BEFORE_COLON = r"(?:[A-Za-z0-9._~!$&'()*+,;=@\-]|%[0-9A-Fa-f]{2})"
_QUERY = rf"(?:{_IN_PATH}|[/?])*"

# The pattern of uri-reference lacks addresses in brackets.
FORMAT_PATTERNS: Mapping[str, str] = {
    "json-pointer": f"^{_POINTER}$",
    "relative-json-pointer": f"^(?:0|[1-9][0-9]*)(?:#|{_POINTER})$",
    "uri-reference": (
        rf"^(?:[A-Za-z][A-Za-z0-9+.\-]*:(?:{_IN_PATH}|/)*|(?:{_BEFORE_COLON}+(?:/{_IN_PATH}*)*)?|(?:/{_IN_PATH}*)+)"
        rf"(?:\?{_QUERY})?(?:#{_QUERY})?$"
    ),
}


def _is_type(value: Any) -> bool:
    listed = value if isinstance(value, list) else [value]
    return bool(listed) and all(isinstance(each, str) and each in TYPES for each in listed)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_limit(value: Any) -> bool:
    return _is_number(value) or isinstance(value, bool)  # draft 4 has flags here


def _is_count(value: Any) -> bool:
    return _is_number(value) and value >= 0 and (isinstance(value, int) or value.is_integer())


def _is_least(value: Any) -> bool:
    return _is_count(value) and value <= MAX_SIZE


def is_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) for each in value)


def _is_filled_list(value: Any) -> bool:
    return isinstance(value, list) and len(value) > 0


def _is_object(value: Any) -> bool:
    return isinstance(value, dict)


_Shape = tuple[Callable[[Any], bool], str]  # the check of a value, and the words for valid values

_COUNT = (_is_count, "an integer of at least 0")
_LEAST = (_is_least, f"an integer from 0 to {MAX_SIZE:,}, or no answer can match")
_SCHEMAS = (_is_filled_list, "a list of at least one schema")
_BY_NAME = (_is_object, "an object of schemas")
_TEXT: _Shape = (lambda value: isinstance(value, str), "a string")

_SHAPES: Mapping[str, _Shape] = {
    "$ref": _TEXT,
    "allOf": _SCHEMAS,
    "anyOf": _SCHEMAS,
    "oneOf": _SCHEMAS,
    "type": (_is_type, f"one of {', '.join(TYPES)}, or a list of these"),
    "enum": (_is_filled_list, "a list of at least one value"),
    "minimum": (_is_number, "a number"),
    "maximum": (_is_number, "a number"),
    "exclusiveMinimum": (_is_limit, "a number"),
    "exclusiveMaximum": (_is_limit, "a number"),
    "multipleOf": (lambda value: _is_number(value) and value > 0, "a number above 0"),
    "minLength": _LEAST,
    "maxLength": _COUNT,
    "pattern": _TEXT,
    "format": _TEXT,
    "prefixItems": _SCHEMAS,
    "minItems": _LEAST,
    "maxItems": _COUNT,
    "minContains": _LEAST,
    "maxContains": _COUNT,
    "uniqueItems": (lambda value: isinstance(value, bool), "true or false"),
    "properties": _BY_NAME,
    "patternProperties": _BY_NAME,
    "required": (is_names, "a list of property names"),
    "minProperties": _LEAST,
    "maxProperties": _COUNT,
    "dependencies": (_is_object, "an object of schemas and lists of property names"),
    "dependentSchemas": _BY_NAME,
    "dependentRequired": (
        lambda value: isinstance(value, dict) and all(map(is_names, value.values())),
        "an object of lists of property names",
    ),
}


def check_shape(node: Mapping[str, Any], keyword: str, location: Location) -> None:
    """Raise InvalidRequest if the keyword's value is not valid in JSON Schema. location: the location of `node`."""
    is_right, expected = _SHAPES.get(keyword, (None, ""))
    if is_right is not None and not is_right(node[keyword]):
        path = path_text((*location, keyword))
        raise InvalidRequest(f"{path} is {quote(node[keyword])}; it must be {expected}", param=path)
