"""Modes of files that were made as temporary files, which only the owner can read."""

import os
from pathlib import Path


def set_default_modes(*paths: Path) -> None:
    """Give files and folders the modes of new ones. Raises OSError."""
    mask = os.umask(0)  # reading the mask requires setting it
    os.umask(mask)
    for path in paths:
        path.chmod((0o777 if path.is_dir() else 0o666) & ~mask)
