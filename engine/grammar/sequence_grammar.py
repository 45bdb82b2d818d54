"""SequenceGrammar: the state of one sequence's grammar, advanced token by token."""

from collections import abc, deque
from contextlib import contextmanager

import llguidance

from engine.grammar.vocabulary import is_beyond_limits
from engine.scheduling.grammar import GrammarError, GrammarTooComplex


class SequenceGrammar:
    """An OutputGrammar on llguidance that follows one sequence's output.

    Where the grammar allows only one text (a key, a bracket), the tokens of that text are *forced*. They are the model
    tokenizer's own tokens for the text, up to the first that a longer token, reaching beyond the text, could replace. A
    run of forced tokens is determined when it begins: otherwise it could depend on where a step ends.

    Invariants: the matcher has consumed the sequence's output; the tokens in `_forced` must follow it.
    """

    def __init__(
        self, eos_token_ids: frozenset[int], *, appends_forced: bool, output_ids: abc.Sequence[int] = ()
    ) -> None:
        """appends_forced: append forced tokens to the output directly, without sampling them. output_ids: output that
        another engine generated under the same grammar, for a resumed request."""
        self._eos_token_ids = eos_token_ids
        self._appends_forced = appends_forced
        self._matcher: llguidance.LLMatcher | None = None
        self._forced: deque[int] = deque()
        self._has_ended = False
        self._output_ids = output_ids
        self._failure: GrammarError | None = None  # of following `output_ids`
        self._when_ready: abc.Callable[[], None] | None = None
        self.num_forced = 0  # tokens appended so far

    @property
    def is_ready(self) -> bool:
        return self._matcher is not None

    def when_ready(self, callback: abc.Callable[[], None]) -> None:
        if not self.is_ready:
            self._when_ready = callback

    @property
    def is_complete(self) -> bool:
        return self._has_ended or (self.matcher.is_stopped() and not self.matcher.is_error())

    @property
    def matcher(self) -> llguidance.LLMatcher:
        assert self._matcher is not None, "the grammar is still being compiled"
        return self._matcher

    def start(self, matcher: llguidance.LLMatcher) -> None:
        """Begin following the grammar. matcher: a fresh copy at the start of the grammar, owned by this sequence from
        now on.

        Raises GrammarError if the grammar fails before any output. If `output_ids` do not match, the first `advance`
        raises, so that only this sequence ends.
        """
        self._matcher = matcher
        callback, self._when_ready = self._when_ready, None  # it may refer to an object that holds this grammar
        if callback is not None:
            callback()
        self._find_forced()
        try:
            for token_id in self._output_ids:
                self._consume(token_id)
        except GrammarError as error:
            self._failure = error

    def advance(self, token_ids: abc.Sequence[int], *, max_tokens: int) -> list[int]:
        """Advance by sampled tokens; return the tokens to output, with forced tokens appended if so configured.

        Raises GrammarError for a token that does not match, or if the mask for sampling could not be computed.
        """
        self._check()
        output: list[int] = []
        for token_id in token_ids:
            output.append(token_id)
            if token_id in self._eos_token_ids:
                if not self.matcher.is_accepting():
                    raise GrammarError("the end of the text does not match the grammar")
                self._has_ended = True
                return output
            self._consume(token_id)
            if self.is_complete:
                return output
        while self._appends_forced and self._forced and len(output) < max_tokens and not self.is_complete:
            output.append(self._forced[0])
            self._consume(self._forced[0])
            self.num_forced += 1
        return output

    def num_matching(self, draft: abc.Sequence[int]) -> int:
        for index, token_id in enumerate(draft[: len(self._forced)]):
            if token_id != self._forced[index]:
                return index
        return self.matcher.validate_tokens(list(draft))

    def can_follow(self, token_id: int) -> bool:
        """Whether the token can come next and is not EOS. Takes microseconds, where a mask may take milliseconds."""
        return token_id not in self._eos_token_ids and self.num_matching([token_id]) == 1

    @property
    def forced_next(self) -> int | None:
        return self._forced[0] if self._forced else None

    @contextmanager
    def following(self, draft: abc.Sequence[int]) -> abc.Iterator[bool]:
        forced = self._forced.copy()
        num_consumed = 0
        try:
            for token_id in draft:
                if token_id in self._eos_token_ids or self.num_matching([token_id]) == 0:
                    break
                self._consume(token_id)
                num_consumed += 1
            yield num_consumed == len(draft)
        finally:
            if num_consumed:
                self.matcher.rollback(num_consumed)
            self._forced = forced

    def _consume(self, token_id: int) -> None:
        if (self._forced and self._forced.popleft() != token_id) or not self.matcher.consume_token(token_id):
            raise self._error(f"token {token_id} does not match the grammar; ")
        self._find_forced()

    def _find_forced(self) -> None:
        if not self._forced and not self.matcher.is_stopped():
            self._forced.extend(self.matcher.compute_ff_tokens())
        self._check()

    def _check(self) -> None:
        """Raise GrammarError if the matcher has failed: a failed matcher looks complete, and its mask allows EOS."""
        if self._failure is not None:
            raise self._failure
        if self.matcher.is_error():
            raise self._error("")

    def _error(self, prefix: str) -> GrammarError:
        reason = self.matcher.get_error()
        if is_beyond_limits(reason):
            return GrammarTooComplex(reason)
        return GrammarError(prefix + reason)
