"""Writer: the interface for rewriting parts of a schema; all_of and any_of, which combine rewritten schemas."""

from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import Any, Protocol

from server.schemas.base import Location
from server.structured_outputs.json_schema.kinds import Kinds

Node = dict[str, Any]
Schema = Node | bool

ABSENT = False  # the schema of a property that must be absent


class Writer(Protocol):
    """The part of Translation's interface that the modules for single keywords use."""

    def schema(self, node: Any, location: Location, kinds: Kinds, /) -> Schema: ...

    def define(self, name: str, schema: Schema, /) -> None: ...

    def count(self, location: Location, /) -> None: ...

    def drop(self, place: Location, reason: str, /) -> None: ...

    def attempt(self) -> AbstractContextManager[None]: ...

    def unsupported_construct(self, pattern: str, place: Location, /) -> str | None: ...

    def are_disjoint(self, first: Any, second: Any, kinds: Kinds, /) -> bool: ...

    def all_disjoint(self, schemas: list[Any], kinds: Kinds, /) -> bool: ...


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
