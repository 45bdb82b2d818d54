"""Modes of files that were made as temporary files, which only their owner can read."""

import os
from pathlib import Path


def give_usual_modes(*paths: Path) -> None:
    """Give files and folders the modes that new ones have. Raises OSError."""
    mask = os.umask(0)  # reading it needs setting it
    os.umask(mask)
    for path in paths:
        path.chmod((0o777 if path.is_dir() else 0o666) & ~mask)
