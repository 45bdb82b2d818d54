"""BranchKeywords: rewrites oneOf, not and if with negated schemas."""

import itertools
from typing import Any

from server.schemas.base import Location
from server.structured_outputs.json_schema.kinds import Kinds
from server.structured_outputs.json_schema.rewriting.negation import InexpressibleError, Negation
from server.structured_outputs.json_schema.rewriting.writer import Node, Schema, Writer, all_of, any_of

_MAX_OVERLAPS = 64  # pairs of branches of one oneOf that may both match


class BranchKeywords:
    """Rewrites oneOf, not and if. A keyword is dropped if a grammar cannot express the negation that it needs."""

    def __init__(self, writer: Writer, negation: Negation) -> None:
        self._writer = writer
        self._negation = negation

    def opposite(self, node: Any, place: Location, kinds: Kinds) -> Schema:
        try:
            with self._writer.attempt():
                return self._negation.schema(node, place, kinds)
        except InexpressibleError as error:
            self._writer.drop(place, f"a grammar cannot express the negation of {error}")
            return True

    def one_of(self, node: Node, place: Location, kinds: Kinds) -> Schema:
        """Rewrite oneOf as anyOf. Each branch is combined with the negations of overlapping branches."""
        branches: list[Any] = node["oneOf"]
        beside = {keyword: value for keyword, value in node.items() if keyword not in ("oneOf", "anyOf")}
        written = [self._writer.schema(branch, (*place, index), kinds) for index, branch in enumerate(branches)]
        overlaps = self._overlaps([{"allOf": [branch, beside]} for branch in branches], kinds)
        try:
            if sum(map(len, overlaps.values())) > 2 * _MAX_OVERLAPS:
                raise InexpressibleError("so many branches that may match at the same time")
            with self._writer.attempt():
                opposites = {
                    index: self._negation.schema(branches[index], (*place, index), kinds) for index in overlaps
                }
        except InexpressibleError as error:
            self._writer.drop(
                place, f"its branches may match at the same time, and a grammar cannot express the negation of {error}"
            )
            return any_of(written)
        return any_of(
            all_of([schema, *(opposites[other] for other in overlaps.get(index, ()))])
            for index, schema in enumerate(written)
        )

    def condition(self, node: Node, location: Location, kinds: Kinds) -> Schema:
        if "then" not in node and "else" not in node:
            return True
        place = (*location, "if")
        holds = self._writer.schema(node["if"], place, kinds)
        then = self._writer.schema(node.get("then", True), (*location, "then"), kinds)
        otherwise = self._writer.schema(node.get("else", True), (*location, "else"), kinds)
        fails = self.opposite(node["if"], place, kinds)
        return any_of([all_of([holds, then]), all_of([fails, otherwise])])

    def _overlaps(self, branches: list[Any], kinds: Kinds) -> dict[int, list[int]]:
        """Return the indices of the branches that may overlap with each branch, by its index."""
        overlaps: dict[int, list[int]] = {}
        if not self._writer.all_disjoint(branches, kinds):
            for first, second in itertools.combinations(range(len(branches)), 2):
                if not self._writer.are_disjoint(branches[first], branches[second], kinds):
                    overlaps.setdefault(first, []).append(second)
                    overlaps.setdefault(second, []).append(first)
        return overlaps
