"""StartupTimes: how long each phase of the last start took, for /metrics and `headrace bench startup`."""

from collections.abc import Callable

from engine.protocol import Loading

FIRST_PHASE = "start processes"  # until the engine process speaks
LAST_PHASE = "prepare text"  # tokenizer and chat template, as far as they were not ready when the engine was


class StartupTimes:
    """Phases follow one another without gaps: each ends where the next begins, by the engine process's clock."""

    def __init__(self, began_s: float, record: Callable[[str, float], None]) -> None:
        """began_s: time.monotonic() when the program began. record(phase, seconds) is called at each phase's end."""
        self._phase = FIRST_PHASE
        self._began_s = began_s
        self._record = record

    def show(self, loading: Loading) -> None:
        """Take note of a Loading message."""
        if loading.stage != self._phase:
            self.begin(loading.stage, loading.sent_s)

    def begin(self, phase: str, at_s: float) -> None:
        """End the phase that runs and begin the next one at `at_s`."""
        self._record(self._phase, max(0.0, at_s - self._began_s))
        self._phase, self._began_s = phase, at_s

    def end(self, at_s: float) -> None:
        """End the last phase."""
        self._record(self._phase, max(0.0, at_s - self._began_s))
