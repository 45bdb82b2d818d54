"""constraint_of: what a request asks its answer to match."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from server.structured_outputs.grammar import GrammarBuilder

# The body's fields that constraint_of reads.
FIELDS = frozenset(
    {
        "response_format",
        "structured_outputs",
        "guided_json",
        "guided_regex",
        "guided_choice",
        "guided_grammar",
        "guided_whitespace_pattern",
        "regex",
        "ebnf",
        "json_schema",
        "structural_tag",
    }
)


@dataclass(frozen=True, slots=True)
class Constraint:
    """What the body of an answer must match. param: the field to blame if the engine refuses the grammar.

    ignored: the paths of what was given and is not enforced.
    """

    param: str
    ignored: list[str]

    def expression(self, builder: GrammarBuilder) -> str:
        """The expression that the body of the answer matches."""
        raise NotImplementedError


def constraint_of(fields: Mapping[str, Any]) -> Constraint | None:
    """fields: those of the body that are in FIELDS, as they came. None where they ask for nothing.

    Raises InvalidRequest and UnsupportedParameter with the path of the field.
    """
    raise NotImplementedError
