"""Modes of files that were made as temporary ones, which are their owner's alone."""

import os
from pathlib import Path


def give_usual_modes(*paths: Path) -> None:
    """Give files and folders the modes that new ones have. Raises OSError."""
    mask = os.umask(0)  # it can only be read by setting it
    os.umask(mask)
    for path in paths:
        path.chmod((0o777 if path.is_dir() else 0o666) & ~mask)
