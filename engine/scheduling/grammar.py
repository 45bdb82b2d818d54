"""OutputGrammar: a grammar that a sequence's output must match, as scheduler, speculator and sampler know it.

`engine.grammar` implements it. The scheduler itself loads no library of grammars.
"""

from collections import abc
from contextlib import AbstractContextManager
from typing import Any, Protocol


class GrammarError(Exception):
    """A grammar failed while it was followed; its sequence cannot continue."""


class GrammarTooComplex(GrammarError):
    """Following the grammar takes more work or memory than one token may: the request is at fault."""


class OutputGrammar(Protocol):
    """One sequence's position in its grammar."""

    num_forced: int  # tokens appended so far that the grammar forced

    @property
    def is_ready(self) -> bool:
        """Whether the grammar is compiled; until then its sequence waits."""

    def when_ready(self, callback: abc.Callable[[], None]) -> None:
        """Call `callback` when the grammar becomes ready; do nothing if it is ready already."""

    @property
    def is_complete(self) -> bool:
        """Whether the output matches and can only end."""

    def advance(self, token_ids: abc.Sequence[int], *, max_tokens: int) -> list[int]:
        """Follow the tokens that the sequence got. Returns them up to the one that completes the output, and the forced
        tokens after them, at most `max_tokens` in all. Raises GrammarError for a token that does not match."""

    def num_matching(self, draft: abc.Sequence[int]) -> int:
        """Return how many of the draft's tokens could follow."""

    def can_follow(self, token_id: int) -> bool:
        """Whether the token could follow and does not end the text."""

    def following(self, draft: abc.Sequence[int]) -> AbstractContextManager[bool]:
        """Count the draft as output inside the block; yields False, and counts nothing, if it does not match."""

    @property
    def forced_next(self) -> int | None:
        """The only token that can follow, or None where there are several."""

    @property
    def matcher(self) -> Any:
        """The compiled grammar, as the library that computes masks takes it."""
