"""ProgressReport: a callback by which work that takes seconds reports its progress."""

from collections.abc import Callable

# (stage, done, total, unit): total 0 where unknown; unit "B" for bytes.
ProgressReport = Callable[[str, int, int, str], None]
