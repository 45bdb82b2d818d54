"""Callbacks through which long work reports its progress."""

from collections.abc import Callable

# (stage, done, total, unit): total 0 where unknown; unit "B" for bytes.
ProgressReport = Callable[[str, int, int, str], None]

# Called often while a step is computed: a step that does not call it for long hangs.
StepProgress = Callable[[], object]


def ignore_progress() -> None:
    """The StepProgress of a caller that does not listen."""
