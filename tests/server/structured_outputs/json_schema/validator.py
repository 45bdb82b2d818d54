"""A small validator of JSON schemas: what the tests hold the written ones against."""

import re
from typing import Any

from server.structured_outputs.json_schema.kinds import identity, kind_of

_KINDS = {"number": ("integer", "fraction")}


def is_valid(value: Any, schema: Any, root: Any = None) -> bool:
    """Whether `value` matches. The keywords are those that the tests use."""
    root = schema if root is None else root
    if isinstance(schema, bool):
        return schema
    return all(
        _holds(keyword, rule, value, schema, root)
        for keyword, rule in schema.items()
        if keyword not in ("$defs", "then", "else", "minContains")
    )


def _holds(keyword: str, rule: Any, value: Any, schema: dict[str, Any], root: Any) -> bool:
    kind = kind_of(value)
    match keyword:
        case "type":
            types = rule if isinstance(rule, list) else [rule]
            return any(kind in _KINDS.get(each, (each,)) for each in types)
        case "enum":
            return identity(value) in set(map(identity, rule))
        case "const":
            return identity(value) == identity(rule)
        case "$ref":
            target = root
            for part in rule.removeprefix("#").split("/")[1:]:
                target = target[part]
            return is_valid(value, target, root)
        case "allOf":
            return all(is_valid(value, part, root) for part in rule)
        case "anyOf":
            return any(is_valid(value, part, root) for part in rule)
        case "oneOf":
            return sum(is_valid(value, part, root) for part in rule) == 1
        case "not":
            return not is_valid(value, rule, root)
        case "if":
            branch = "then" if is_valid(value, rule, root) else "else"
            return is_valid(value, schema.get(branch, True), root)
    if kind in ("integer", "fraction"):
        return _holds_number(keyword, rule, value)
    if kind == "string":
        return _holds_string(keyword, rule, value)
    if kind == "array":
        return _holds_array(keyword, rule, value, schema, root)
    return kind != "object" or _holds_object(keyword, rule, value, schema, root)


def _holds_number(keyword: str, rule: Any, value: float) -> bool:
    match keyword:
        case "minimum":
            return bool(value >= rule)
        case "maximum":
            return bool(value <= rule)
        case "exclusiveMinimum":
            return bool(value > rule)
        case "exclusiveMaximum":
            return bool(value < rule)
    return True


def _holds_string(keyword: str, rule: Any, value: str) -> bool:
    match keyword:
        case "minLength":
            return len(value) >= rule
        case "maxLength":
            return len(value) <= rule
        case "pattern":
            return re.search(rule, value) is not None
    return True


def _holds_array(keyword: str, rule: Any, value: list[Any], schema: dict[str, Any], root: Any) -> bool:
    match keyword:
        case "minItems":
            return len(value) >= rule
        case "maxItems":
            return len(value) <= rule
        case "prefixItems":
            return all(is_valid(item, part, root) for item, part in zip(value, rule, strict=False))
        case "items":
            return all(is_valid(item, rule, root) for item in value[len(schema.get("prefixItems", [])) :])
        case "uniqueItems":
            return not rule or len(set(map(identity, value))) == len(value)
        case "contains":
            return sum(is_valid(item, rule, root) for item in value) >= schema.get("minContains", 1)
    return True


def _holds_object(keyword: str, rule: Any, value: dict[str, Any], schema: dict[str, Any], root: Any) -> bool:
    match keyword:
        case "required":
            return all(name in value for name in rule)
        case "minProperties":
            return len(value) >= rule
        case "maxProperties":
            return len(value) <= rule
        case "properties":
            return all(is_valid(value[name], part, root) for name, part in rule.items() if name in value)
        case "patternProperties":
            return all(
                is_valid(item, part, root)
                for pattern, part in rule.items()
                for name, item in value.items()
                if re.search(pattern, name)
            )
        case "additionalProperties":
            patterns = schema.get("patternProperties", {})
            return all(
                is_valid(item, rule, root)
                for name, item in value.items()
                if name not in schema.get("properties", {}) and not any(re.search(each, name) for each in patterns)
            )
        case "propertyNames":
            return all(is_valid(name, rule, root) for name in value)
        case "dependentRequired":
            return all(other in value for name, others in rule.items() if name in value for other in others)
        case "dependentSchemas":
            return all(is_valid(value, part, root) for name, part in rule.items() if name in value)
    return True
