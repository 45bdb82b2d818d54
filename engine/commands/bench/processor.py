"""The name of this machine's processor."""

import contextlib
import platform
from pathlib import Path


def processor_name() -> str:
    """As Linux tells it; elsewhere the architecture."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()
