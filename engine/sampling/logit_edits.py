"""LogitEditor: the steps that change logits before a token is chosen, each skipped if no row uses it."""

from collections import abc

import torch

from engine.sampling.grammar_masks import GrammarMasks
from engine.sampling.masks_ahead import NO_MASKS, PendingMasks
from engine.sampling.rows import LogitsRow
from engine.sampling.steps.allowed_tokens import AllowedTokens
from engine.sampling.steps.bad_words import BadWords
from engine.sampling.steps.dry import DryPenalties
from engine.sampling.steps.penalties import TokenCounts, apply_logit_bias, apply_penalties
from engine.sampling.steps.thinking import ThinkingBudgets
from models.kernels.torch.logits import LogitOperations


class LogitEditor:
    """Grammars, logit bias, penalties, DRY, allowed tokens, bad words, minimum length, thinking budgets. Holds what it
    knows of sequences until they are released."""

    def __init__(self, eos_token_ids: list[int], ops: LogitOperations) -> None:
        self.masks = GrammarMasks(ops)
        self._eos_token_ids = eos_token_ids
        self._counts: dict[str, TokenCounts] = {}
        self._dry = DryPenalties()
        self._allowed = AllowedTokens()
        self._bad_words = BadWords()
        self._thinking = ThinkingBudgets()

    def release(self, sequence_id: str) -> None:
        self._counts.pop(sequence_id, None)
        for step in (self._dry, self._allowed, self._bad_words, self._thinking):
            step.release(sequence_id)

    def edit(
        self,
        logits: torch.Tensor,
        rows: list[LogitsRow],
        best_ids: abc.Sequence[int] | None = None,
        masks: PendingMasks = NO_MASKS,
    ) -> list[int]:
        """Edit `logits` ([L, V] fp32) in place; returns the indices of the rows that changed.

        best_ids, masks: see GrammarMasks; without best_ids every row with a grammar is masked.
        """
        masked = self.masks.apply(logits, rows, best_ids, masks)
        edited = self._edit_single(logits, rows)
        return sorted({*masked, *edited}) if masked else edited

    def _edit_single(self, logits: torch.Tensor, rows: list[LogitsRow]) -> list[int]:
        edited = []
        for index, row in enumerate(rows):
            sampling = row.sampling
            has_penalties = sampling.has_penalties
            banned = self._banned_ids(row) if sampling.min_tokens or sampling.bad_words else []
            end_of_thought = self._thinking.due_end(row)
            if end_of_thought is not None and logits[index, end_of_thought] == -torch.inf:
                end_of_thought = None  # masked, as within a character of several tokens: the next one ends the thought
            if not (
                sampling.logit_bias
                or has_penalties
                or banned
                or sampling.dry is not None
                or sampling.allowed_token_ids is not None
                or end_of_thought is not None
            ):
                continue
            edited.append(index)
            if sampling.logit_bias:
                apply_logit_bias(logits[index], sampling.logit_bias)
            if has_penalties:
                counts = self._counts.setdefault(row.sequence_id, TokenCounts())
                counts.update(row)
                with counts.extended_by(row.drafted):
                    apply_penalties(logits[index], sampling, counts)
            if sampling.dry is not None:
                self._dry.apply(logits[index], row)
            if sampling.allowed_token_ids is not None:
                self._allowed.apply(logits[index], row)
            if banned:
                logits[index, banned] = -torch.inf
            if end_of_thought is not None:
                logits[index] = -torch.inf
                logits[index, end_of_thought] = 0.0
        return edited

    def _banned_ids(self, row: LogitsRow) -> list[int]:
        """Ids that would end the sequence before min_tokens, or complete a bad word."""
        sampling = row.sampling
        banned = self._bad_words.banned_ids(row) if sampling.bad_words else []
        if row.num_output < sampling.min_tokens:
            banned += [*sampling.stop_token_ids, *([] if sampling.ignore_eos else self._eos_token_ids)]
        return banned
