"""ProgressReport: how work that takes seconds says how far it is."""

from collections.abc import Callable

# (stage, done, total, unit): total 0 where unknown; unit "B" for bytes.
ProgressReport = Callable[[str, int, int, str], None]
