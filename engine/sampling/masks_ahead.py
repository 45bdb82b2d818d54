"""MasksAhead: computes the grammar masks of a step on a background thread, while the model computes the logits.

A row's mask depends only on the tokens before it, which are known when the step begins.
"""

from collections import abc
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from engine.sampling.mask_writer import MaskWriter
from engine.sampling.rows import LogitsRow


class PendingMasks:
    """Masks that a thread is computing for some rows of a step. No other thread may use these rows' grammars until
    `take` or `wait` returns."""

    def __init__(self, indices: abc.Sequence[int], future: Future[np.ndarray] | None) -> None:
        """indices: the rows that have masks, as indices into the step's rows."""
        self._indices = indices
        self._future = future

    def take(self) -> tuple[dict[int, int], np.ndarray | None]:
        """Wait for the masks; return a dict from row index to mask index, and the masks.

        Returns no masks on later calls. Raises any error from computing them.
        """
        future, self._future = self._future, None
        if future is None:
            return {}, None
        return {index: place for place, index in enumerate(self._indices)}, future.result()

    def wait(self) -> None:
        """Wait until the thread no longer uses the grammars, whether or not the masks were taken."""
        if self._future is not None:
            self._future.exception()


NO_MASKS = PendingMasks((), None)


class MasksAhead:
    """Computes masks on a background thread, which starts with the first mask."""

    def __init__(self, writer: MaskWriter) -> None:
        """writer: owned by this object. Its masks are valid until the next step's `start`."""
        self._writer = writer
        self._thread: ThreadPoolExecutor | None = None

    def start(self, rows: abc.Sequence[LogitsRow], indices: abc.Sequence[int], vocab_size: int) -> PendingMasks:
        """Start computing the masks of the rows with these indices. vocab_size: the width of the logits."""
        if not indices:
            return NO_MASKS
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, "grammar-masks")
        chosen = [rows[index] for index in indices]
        return PendingMasks(indices, self._thread.submit(self._writer.masks, chosen, vocab_size))
