"""GrammarMasks: the tokens that grammars allow at each row of a step, and logits without the others.

A greedy row whose best token matches needs no mask: without the tokens that do not match, it is the best one still.
"""

import time
from collections import abc

import llguidance
import torch

from engine.sampling.rows import LogitsRow
from models.kernels import sampling as native

_WORD_BITS = 32
_ALL = -1  # a word that allows everything


class GrammarMasks:
    """Has one buffer, which grows with the largest step."""

    def __init__(self) -> None:
        # The kernels' threads have nothing to do until the logits are masked.
        self._executor = llguidance.LLExecutor(num_threads=torch.get_num_threads())
        self._buffer = torch.empty((0, 0), dtype=torch.int32)
        self._num_rows = 0
        self._seconds = 0.0

    def apply(
        self, logits: torch.Tensor, rows: list[LogitsRow], best_ids: abc.Sequence[int] | None = None
    ) -> list[int]:
        """Set the logits ([L, V] fp32) of tokens that do not match to -inf; returns the indices of the masked rows.

        best_ids: [L], the token of each row's largest logit; rows that need nothing but it, and whose own matches, are
        left alone.
        """
        masked = [index for index, row in enumerate(rows) if row.sequence.grammar is not None]
        if not masked:
            return []
        start_s = time.perf_counter()
        if best_ids is not None:
            masked = [index for index in masked if not _is_best_matching(rows[index], best_ids[index])]
        if not masked:
            self._seconds += time.perf_counter() - start_s
            return []
        masks = self._masks([rows[index] for index in masked], logits.shape[1])
        self._num_rows += len(masked)
        self._seconds += time.perf_counter() - start_s
        library = native.sampling_library(logits)
        if library is not None:
            native.mask_rows(logits, masked, masks, library)
        else:
            _mask_by_torch(logits, masked, masks)
        return masked

    def take_tally(self) -> tuple[int, float]:
        """(rows, seconds) since the last call."""
        tally = self._num_rows, self._seconds
        self._num_rows, self._seconds = 0, 0.0
        return tally

    def _masks(self, rows: list[LogitsRow], vocab_size: int) -> torch.Tensor:
        """[len(rows), words] int32, the lowest bit first."""
        num_words = -(-vocab_size // _WORD_BITS)
        if self._buffer.shape[0] < len(rows) or self._buffer.shape[1] != num_words:
            self._buffer = torch.empty((len(rows), num_words), dtype=torch.int32)
        masks = self._buffer[: len(rows)]
        together: list[tuple[llguidance.LLMatcher, int]] = []
        for index, row in enumerate(rows):
            grammar = row.sequence.grammar
            assert grammar is not None
            if row.num_drafted:
                with grammar.following(row.drafted) as matches:
                    if matches:
                        self._write(masks, index, grammar.forced_next, grammar.matcher)
                    else:
                        masks[index] = _ALL  # behind a drafted token that this row's predecessor rules out
            elif grammar.forced_next is not None:
                _allow_one(masks[index], grammar.forced_next)
            else:
                together.append((grammar.matcher, index))
        if together:
            self._write_all(masks, together)
        return masks

    def _write(self, masks: torch.Tensor, index: int, forced_next: int | None, matcher: llguidance.LLMatcher) -> None:
        if forced_next is not None:
            _allow_one(masks[index], forced_next)
        else:
            self._write_all(masks, [(matcher, index)])

    def _write_all(self, masks: torch.Tensor, matchers: list[tuple[llguidance.LLMatcher, int]]) -> None:
        self._executor.unsafe_compute_mask_ptr(
            matchers, masks.data_ptr(), masks.shape[1] * masks.element_size(), masks.shape[0]
        )


def _is_best_matching(row: LogitsRow, best_id: int) -> bool:
    """Whether the row's token will be `best_id` with a mask and without."""
    if not row.takes_best:
        return False
    grammar = row.sequence.grammar
    assert grammar is not None
    if not row.num_drafted:
        return grammar.can_follow(best_id)
    with grammar.following(row.drafted) as matches:
        return matches and grammar.can_follow(best_id)


def _allow_one(mask: torch.Tensor, token_id: int) -> None:
    mask.zero_()
    bit = 1 << token_id % _WORD_BITS
    mask[token_id // _WORD_BITS] = bit - (1 << _WORD_BITS if bit >> (_WORD_BITS - 1) else 0)  # as a signed number


def _mask_by_torch(logits: torch.Tensor, rows: list[int], masks: torch.Tensor) -> None:
    bits = torch.arange(_WORD_BITS, device=logits.device)
    is_allowed = (masks.to(logits.device).unsqueeze(-1) >> bits & 1).flatten(1)[:, : logits.shape[1]].bool()
    logits[rows] = logits[rows].masked_fill(~is_allowed, -torch.inf)
