"""PropertyCounts: minProperties and maxProperties, which a grammar cannot count, as combinations of properties."""

import itertools
import math
from collections.abc import Iterator

from server.structured_outputs.json_schema.rewriting.writer import ABSENT, Node, Schema, any_of

_MAX_COMBINATIONS = 128  # of optional properties


class PropertyCounts:
    """The rewritten minProperties and maxProperties of an object whose other keywords are already written.

    A grammar counts properties only if every declared property is required or absent. limits: keywords to add to the
    object. combined: another schema that must match too; None if the counts cannot be enforced.
    """

    def __init__(self, written: Node, least: float | None, most: float | None) -> None:
        self.keyword = "minProperties" if most is None else "maxProperties"
        self._required = list(written.get("required", ()))
        declared = written.get("properties", {})
        self._optional = [name for name in declared if name not in self._required and declared[name] is not False]
        is_closed = written.get("additionalProperties") is False and not written.get("patternProperties")
        self._least = 0 if least is None else int(least)
        self._most = None if most is None else int(most)
        if self._least <= len(self._required):
            self._least = 0  # the required properties are enough
        if self._most is not None and is_closed and self._most >= len(self._optional) + len(self._required):
            self._most = None  # more are not possible
        self.limits: Node = {}
        self.combined: Schema | None = True
        if self._least or self._most is not None:
            if self._optional:
                self.combined = self._spelled_out(is_closed)
            else:
                self.limits = self._limits()

    def _limits(self) -> Node:
        limits = {"minProperties": self._least} if self._least else {}
        return limits if self._most is None else limits | {"maxProperties": self._most}

    def _spelled_out(self, is_closed: bool) -> Schema | None:
        missing = self._least - len(self._required)
        if self._most is None and missing == 1:
            present = [{"required": [name]} for name in self._optional]
            none = {"properties": dict.fromkeys(self._optional, ABSENT), **self._limits()}
            return any_of(present if is_closed else [*present, none])
        room = len(self._optional) if self._most is None else max(0, self._most - len(self._required))
        sizes = range(max(0, missing) if is_closed else 0, min(room, len(self._optional)) + 1)
        if sum(math.comb(len(self._optional), size) for size in sizes) > _MAX_COMBINATIONS:
            return None
        if self._most is not None and self._most < len(self._required):
            return {"required": self._required, **self._limits()}  # which no object matches
        return any_of(self._combination(set(names)) for size in sizes for names in self._choices(size))

    def _choices(self, size: int) -> Iterator[tuple[str, ...]]:
        return itertools.combinations(self._optional, size)

    def _combination(self, present: set[str]) -> Schema:
        return {
            "properties": {name: name in present or ABSENT for name in self._optional},
            "required": [name for name in self._optional if name in present],
            **self._limits(),
        }
