"""all_of and any_of: combinations of schemas, simplified."""

from collections.abc import Iterable
from typing import Any

Schema = dict[str, Any] | bool

ABSENT = False  # the schema of a property that must be absent


def all_of(schemas: Iterable[Schema]) -> Schema:
    """Return a schema that matches the values that all schemas match."""
    listed: list[Schema] = []
    for schema in schemas:
        if schema is False:
            return False
        if schema is not True and schema != {}:
            listed.append(schema)
    if not listed:
        return True
    return listed[0] if len(listed) == 1 else {"allOf": listed}


def any_of(schemas: Iterable[Schema]) -> Schema:
    """Return a schema that matches the values that at least one schema matches."""
    listed: list[Schema] = []
    for schema in schemas:
        if schema is True or schema == {}:
            return True
        if schema is not False:
            listed.append(schema)
    if not listed:
        return False
    return listed[0] if len(listed) == 1 else {"anyOf": listed}
