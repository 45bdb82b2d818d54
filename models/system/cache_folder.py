"""The cache folder: fetched models, converted tokenizers, packed weights, compiled kernels."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """Return $HEADRACE_CACHE, else $XDG_CACHE_HOME/headrace, else ~/.cache/headrace; the folder may not exist."""
    if chosen := os.environ.get("HEADRACE_CACHE"):
        return Path(chosen).expanduser()
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "headrace"
