"""MasksAhead: masks of the next tokens, computed on a thread of their own while the model computes the logits.

The tokens that a row's grammar allows depend on the tokens before it, which are known when a step begins.
"""

from collections import abc
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from engine.sampling.mask_writer import MaskWriter
from engine.sampling.rows import LogitsRow


class PendingMasks:
    """Masks of some rows of a step, which a thread computes. No other thread may use the rows' grammars until `take` or
    `wait` has returned."""

    def __init__(self, indices: abc.Sequence[int], future: Future[np.ndarray] | None) -> None:
        """indices: of the rows, among all of the step."""
        self._indices = indices
        self._future = future

    def take(self) -> tuple[dict[int, int], np.ndarray | None]:
        """Wait for the masks; returns them, and which of them belongs to each row, by the row's index.

        Later calls return none. Raises what computing the masks raised.
        """
        future, self._future = self._future, None
        if future is None:
            return {}, None
        return {index: place for place, index in enumerate(self._indices)}, future.result()

    def wait(self) -> None:
        """Return when the grammars are free again, whether or not the masks were taken."""
        if self._future is not None:
            self._future.exception()


NO_MASKS = PendingMasks((), None)


class MasksAhead:
    """Computes masks on a thread, which starts with the first mask."""

    def __init__(self, writer: MaskWriter) -> None:
        """writer: for this object alone; its masks are valid until the next step's are started."""
        self._writer = writer
        self._thread: ThreadPoolExecutor | None = None

    def start(self, rows: abc.Sequence[LogitsRow], indices: abc.Sequence[int], vocab_size: int) -> PendingMasks:
        """Compute the masks of the rows with these indices. vocab_size: the width of their logits."""
        if not indices:
            return NO_MASKS
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, "grammar-masks")
        chosen = [rows[index] for index in indices]
        return PendingMasks(indices, self._thread.submit(self._writer.masks, chosen, vocab_size))
