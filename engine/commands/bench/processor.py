"""The name of this machine's processor. No torch here: benchmarks of other processes import it."""

import contextlib
import platform
from pathlib import Path


def processor_name() -> str:
    """Return the processor's name as Linux reports it; elsewhere the architecture."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()
