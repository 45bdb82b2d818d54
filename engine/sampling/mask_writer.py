"""MaskWriter: computes the bit masks of the tokens that grammars allow."""

from collections import abc

import llguidance
import numpy as np

from engine.sampling.rows import LogitsRow

_WORD_BITS = 32
_ALL = 0xFFFFFFFF  # a word that allows everything


class MaskWriter:
    """Computes masks into one buffer, which grows to the largest step. Not thread-safe."""

    def __init__(self, num_threads: int) -> None:
        self._executor = llguidance.LLExecutor(num_threads=num_threads)
        self._buffer = np.empty((0, 0), dtype=np.uint32)

    def masks(self, rows: abc.Sequence[LogitsRow], vocab_size: int) -> np.ndarray:
        """Return masks, [len(rows), words] uint32, lowest bit first; valid until the next call. Every row must have a
        grammar."""
        num_words = -(-vocab_size // _WORD_BITS)
        if self._buffer.shape[0] < len(rows) or self._buffer.shape[1] != num_words:
            self._buffer = np.empty((len(rows), num_words), dtype=np.uint32)
        masks = self._buffer[: len(rows)]
        together: list[tuple[llguidance.LLMatcher, int]] = []
        for index, row in enumerate(rows):
            grammar = row.grammar
            assert grammar is not None
            if row.num_drafted:
                with grammar.following(row.drafted) as matches:
                    if matches:
                        self._write(masks, index, grammar.forced_next, grammar.matcher)
                    else:
                        masks[index] = _ALL  # the row follows a drafted token that its predecessor rules out
            elif grammar.forced_next is not None:
                _allow_one(masks[index], grammar.forced_next)
            else:
                together.append((grammar.matcher, index))
        if together:
            self._write_all(masks, together)
        return masks

    def _write(self, masks: np.ndarray, index: int, forced_next: int | None, matcher: llguidance.LLMatcher) -> None:
        if forced_next is not None:
            _allow_one(masks[index], forced_next)
        else:
            self._write_all(masks, [(matcher, index)])

    def _write_all(self, masks: np.ndarray, matchers: list[tuple[llguidance.LLMatcher, int]]) -> None:
        self._executor.unsafe_compute_mask_ptr(
            matchers, masks.ctypes.data, masks.shape[1] * masks.itemsize, masks.shape[0]
        )


def _allow_one(mask: np.ndarray, token_id: int) -> None:
    mask[:] = 0
    mask[token_id // _WORD_BITS] = 1 << token_id % _WORD_BITS
