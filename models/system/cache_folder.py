"""The cache folder: fetched models, converted tokenizers, packed weights, compiled kernels, calibrations."""

import os
from pathlib import Path

CALIBRATION_FOLDER = "calibrations"  # in the cache folder; nothing in it is ever evicted


def cache_folder() -> Path:
    """Return $HEADRACE_CACHE, else $XDG_CACHE_HOME/headrace, else ~/.cache/headrace; the folder may not exist."""
    if chosen := os.environ.get("HEADRACE_CACHE"):
        return Path(chosen).expanduser()
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "headrace"
