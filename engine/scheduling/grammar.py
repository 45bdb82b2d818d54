"""OutputGrammar: the interface of a sequence's output grammar, for the scheduler, the speculator and the sampler.

`engine.grammar` implements it, so the scheduler itself loads no grammar library.
"""

from collections import abc
from contextlib import AbstractContextManager
from typing import Any, Protocol


class GrammarError(Exception):
    """Following the grammar failed; the sequence cannot continue."""


class GrammarTooComplex(GrammarError):
    """Following the grammar exceeded the work or memory allowed per token; the client's grammar is at fault."""


class OutputGrammar(Protocol):
    """The state of one sequence's grammar after its output so far."""

    num_forced: int  # tokens appended so far that the grammar forced

    @property
    def is_ready(self) -> bool:
        """Whether the grammar is compiled; until then its sequence waits."""

    def when_ready(self, callback: abc.Callable[[], None]) -> None:
        """Call `callback` when the grammar becomes ready; do nothing if it is ready already."""

    @property
    def is_complete(self) -> bool:
        """Whether the output matches the grammar and nothing but its end may follow."""

    def advance(self, token_ids: abc.Sequence[int], *, max_tokens: int) -> list[int]:
        """Advance by sampled tokens; return the tokens to output: `token_ids`, up to the one that completes the output,
        then any appended forced tokens, at most `max_tokens` in all. Raises GrammarError for a token that does not
        match."""

    def num_matching(self, draft: abc.Sequence[int]) -> int:
        """Return how many tokens of the draft, from its start, the grammar allows."""

    def can_follow(self, token_id: int) -> bool:
        """Whether the token is allowed next and is not EOS."""

    def following(self, draft: abc.Sequence[int]) -> AbstractContextManager[bool]:
        """Advance by the draft inside the block, and roll back on exit. Yields whether all of it matches."""

    @property
    def forced_next(self) -> int | None:
        """The only token allowed next; None if the grammar allows several."""

    @property
    def matcher(self) -> Any:
        """The underlying llguidance matcher, for computing masks."""
