"""Runs `pip install` with the given arguments, and says what it is doing while it copies packages.

pip tells what it downloads. Then it is silent while it copies the packages, until version 25.1 gave it a bar, which
only terminals get. This watches the folder that pip copies into.
"""

import importlib.metadata
import os
import subprocess
import sys
import sysconfig
import time
from collections.abc import Collection
from pathlib import Path

INTERVAL_S = 3.0
_WITH_BAR = (25, 1)  # pip's first version with a bar


def main(arguments: list[str]) -> int:
    """Returns pip's exit code."""
    folder = Path(sysconfig.get_path("purelib"))
    before = set(os.listdir(folder))
    command = [sys.executable, "-m", "pip", "install", *arguments]
    began_s = time.monotonic()
    with subprocess.Popen(command) as process:
        is_told = has_bar(importlib.metadata.version("pip"), is_terminal=sys.stdout.isatty())
        while True:
            try:
                return process.wait(INTERVAL_S)
            except subprocess.TimeoutExpired:
                progress = None if is_told else describe(folder, before)
                if progress is not None:
                    sys.stdout.write(f"  {progress}, after {time.monotonic() - began_s:.0f} s\n")
                    sys.stdout.flush()
            except KeyboardInterrupt:  # pip gets it, too, and cleans up
                return process.wait()


def has_bar(version: str, *, is_terminal: bool) -> bool:
    """Whether pip itself shows how far copying has come."""
    major, minor = (int(part) for part in version.split(".")[:2])
    return is_terminal and (major, minor) >= _WITH_BAR


def describe(folder: Path, before: Collection[str]) -> str | None:
    """How far copying into `folder` has come; None before it begins. before: the names that were there."""
    new = [folder / name for name in set(os.listdir(folder)) - set(before) if not name.startswith(("~", "__"))]
    if not new:
        return None
    num_done = sum(path.name.endswith(".dist-info") for path in new)
    newest = max(new, key=_born_s)
    name = newest.name.split("-")[0].removesuffix(".py").removesuffix(".libs")
    return f"installing {name}, {num_done} package{'' if num_done == 1 else 's'} done"


def _born_s(path: Path) -> float:
    try:
        return path.stat().st_ctime
    except OSError:  # pip renames what it has copied
        return 0.0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
