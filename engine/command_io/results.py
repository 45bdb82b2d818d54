"""The file of --json: a benchmark's results, for programs."""

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from engine.errors import OptionError, StartupError


def check_results_file(path: str | None, flag: str = "--json") -> None:
    """Raise OptionError if no results can be written to `path`, which `flag` names; to be called before a long
    measurement."""
    if path is None:
        return
    file = Path(path)
    folder = file.resolve().parent
    if file.is_dir():
        raise OptionError(f"{flag} is {path}, a folder; name a file in it")
    if not folder.is_dir():
        raise OptionError(f"{flag} is {path}; its folder does not exist; create it")
    if not os.access(file if file.exists() else folder, os.W_OK):
        raise OptionError(f"{flag} is {path}, which may not be written; name another file")


def write_results(path: str, results: Mapping[str, Any]) -> None:
    """Write `results` and the date to `path`; NaN becomes null. Raises StartupError."""
    dated = {"date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), **results}
    try:
        Path(path).write_bytes(msgspec.json.format(msgspec.json.encode(dated)) + b"\n")
    except OSError as error:
        raise StartupError(f"cannot write {path}: {error.strerror}") from error
