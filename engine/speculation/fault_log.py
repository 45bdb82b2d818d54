"""FaultLog: switches speculation off, for single sequences or altogether, when drafting raises exceptions."""

import contextlib
from collections import abc

from engine.scheduling.sequence import Sequence

_MAX_FAULTS = 3  # with no verified draft between them


class FaultLog:
    """Mutes sequences whose drafting raised an exception; switches speculation off if exceptions continue.

    So a request with unforeseen parameters does not switch off speculation for other requests.
    """

    def __init__(self) -> None:
        self._suspects: abc.Sequence[Sequence] = ()
        self._muted: set[str] = set()
        self._num_faults = 0
        self.is_off = False  # for good

    @contextlib.contextmanager
    def suspecting(self, sequences: abc.Sequence[Sequence]) -> abc.Iterator[None]:
        """Blame these sequences for exceptions that are raised within the context."""
        self._suspects = sequences
        yield
        self._suspects = ()  # not reached after an exception: `record` needs them

    def is_muted(self, sequence: Sequence) -> bool:
        return sequence.id in self._muted

    def record(self) -> None:
        """Count an exception, and mute the sequences that are blamed for it."""
        self._muted.update(sequence.id for sequence in self._suspects)
        self._suspects = ()
        self._num_faults += 1
        self.is_off = self.is_off or self._num_faults >= _MAX_FAULTS

    def reset_count(self) -> None:
        """Reset the count of exceptions, after a draft has been verified."""
        self._num_faults = 0

    def release(self, sequence: Sequence) -> None:
        self._muted.discard(sequence.id)
