"""FaultBook: what becomes of speculation when something in it raises."""

import contextlib
from collections.abc import Iterator
from collections.abc import Sequence as SequenceOf

from engine.scheduling.sequence import Sequence

_MOST_FAULTS = 3  # with no verified draft between them


class FaultBook:
    """Whoever a fault was met for drafts no more; if faults go on, nobody does.

    So a request with parameters that nobody thought of takes nothing from the others.
    """

    def __init__(self) -> None:
        self._suspects: SequenceOf[Sequence] = ()
        self._muted: set[str] = set()
        self._num_faults = 0
        self.is_off = False  # for good

    @contextlib.contextmanager
    def suspecting(self, sequences: SequenceOf[Sequence]) -> Iterator[None]:
        """What raises within the context does so because of these."""
        self._suspects = sequences
        yield
        self._suspects = ()  # not reached if it raises: `take` needs them

    def is_muted(self, sequence: Sequence) -> bool:
        return sequence.id in self._muted

    def take(self) -> None:
        """Something has raised."""
        self._muted.update(sequence.id for sequence in self._suspects)
        self._suspects = ()
        self._num_faults += 1
        self.is_off = self.is_off or self._num_faults >= _MOST_FAULTS

    def forgive(self) -> None:
        """A draft has come through."""
        self._num_faults = 0

    def release(self, sequence: Sequence) -> None:
        self._muted.discard(sequence.id)
