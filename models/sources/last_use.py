"""note_use: of a cached file, that it is used now. Many systems note reading a file once a day, or never."""

import contextlib
import os
import time
from collections.abc import Iterable
from pathlib import Path


def note_use(files: Iterable[Path]) -> None:
    """Sets the time of access alone: the time of change tells whether a file is still what it was."""
    for file in files:
        with contextlib.suppress(OSError):  # a cache that cannot be written
            os.utime(file, ns=(time.time_ns(), file.stat().st_mtime_ns))
