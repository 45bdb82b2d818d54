"""MasksAhead: masks of the next tokens, computed on a thread of their own while the model computes the logits.

What a row's grammar allows depends on the tokens before it, which are known when a step begins.
"""

from collections import abc
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np

from engine.sampling.mask_writer import MaskWriter
from engine.sampling.rows import LogitsRow


class MasksAhead:
    """Invariant: outside of `computing` no thread but the caller's looks at a grammar."""

    def __init__(self, writer: MaskWriter) -> None:
        self._writer = writer
        self._thread: ThreadPoolExecutor | None = None
        self._future: Future[np.ndarray] | None = None
        self._rows: abc.Sequence[LogitsRow] = ()

    @contextmanager
    def computing(self, rows: abc.Sequence[LogitsRow], vocab_size: int) -> abc.Iterator[None]:
        """Inside the block the rows' masks are computed, and their grammars are not for others until `take`."""
        if not rows:
            yield
            return
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, "grammar-masks")
        future = self._thread.submit(self._writer.masks, rows, vocab_size)
        self._future, self._rows = future, rows
        try:
            yield
        finally:
            self._future, self._rows = None, ()
            future.exception()  # waits: the grammars go on being used, also if the model's pass failed

    def take(self) -> tuple[dict[tuple[str, int], int], np.ndarray | None]:
        """(which of the masks belongs to each row, by `place_of`; the masks). Waits for them, and raises what computing
        them raised."""
        if self._future is None:
            return {}, None
        places = {place_of(row): index for index, row in enumerate(self._rows)}
        return places, self._future.result()


def place_of(row: LogitsRow) -> tuple[str, int]:
    """What tells a row from the others of a step: its sequence, and how much of the draft it follows."""
    return row.sequence.id, row.num_drafted
