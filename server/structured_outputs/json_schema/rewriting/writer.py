"""Writer: the methods of a translation that its parts use."""

from contextlib import AbstractContextManager
from typing import Any, Protocol

from server.schemas.base import Location
from server.structured_outputs.json_schema.kinds import Kinds
from server.structured_outputs.json_schema.rewriting.composition import Schema

Node = dict[str, Any]


class Writer(Protocol):
    """The interface of Translation for the writers of single keywords."""

    def schema(self, node: Any, location: Location, kinds: Kinds, /) -> Schema: ...

    def drop(self, place: Location, reason: str, /) -> None: ...

    def attempt(self) -> AbstractContextManager[None]: ...

    def unsupported_construct(self, pattern: str, place: Location, /) -> str | None: ...

    def are_disjoint(self, first: Any, second: Any, kinds: Kinds, /) -> bool: ...

    def all_disjoint(self, schemas: list[Any], kinds: Kinds, /) -> bool: ...
