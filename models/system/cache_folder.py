"""The folder for files that outlive a run: fetched models, tokenizers, packed weights, compiled kernels."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """$HEADRACE_CACHE, else $XDG_CACHE_HOME/headrace, else ~/.cache/headrace; it may not exist yet."""
    if chosen := os.environ.get("HEADRACE_CACHE"):
        return Path(chosen).expanduser()
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "headrace"
