"""The command that starts `headrace` on this machine, for messages that show commands.

The command that was started is not always on the PATH: `make serve` starts .venv/bin/headrace. A command that is shown
must work when it is pasted into the terminal that the program was started from.
"""

import functools
import os
import re
import shlex
import shutil
import sys
from pathlib import Path

NAME = "headrace"
# The names of all commands: prose such as "headrace needs Linux" shows no command.
COMMAND_NAMES = (
    "serve",
    "fleet",
    "chat",
    "complete",
    "ps",
    "top",
    "batch",
    "replay",
    "models",
    "pull",
    "doctor",
    "keys",
    "quantize",
    "calibrate",
    "finetune",
    "data",
    "synthesize",
    "bench",
    "simulate",
    "plan",
    "completion",
)
_PIP = re.compile(r"(?<![\w/.-])pip(?= install\b)")
_SHOWN = re.compile(rf"(?<![\w/.-]){NAME}(?= (?:{'|'.join(COMMAND_NAMES)}|COMMAND|--help)\b)")


def as_typed(text: str) -> str:
    """Replace `headrace` and `pip` in the commands that `text` shows by the commands that work in this terminal."""
    return _PIP.sub(lambda _: find_pip(sys.prefix, Path.cwd()), _SHOWN.sub(lambda _: program(), text))


@functools.cache
def program() -> str:
    """Return the command that starts this installation's `headrace` from the current folder, quoted for a shell."""
    return find_program(sys.argv[0], sys.executable, Path.cwd())


def find_program(started_as: str, python: str, folder: Path) -> str:
    """Return the command for `headrace`. started_as: argv[0] of this process. python: its interpreter, next to which an
    installation puts the `headrace` script."""
    on_path = shutil.which(NAME)
    own = next((each for each in (started_as, os.path.join(os.path.dirname(python), NAME)) if _is_script(each)), None)
    if own is None:
        return NAME if on_path is not None else f"{shlex.quote(python)} -m server.cli"
    if on_path is not None and os.path.realpath(on_path) == os.path.realpath(own):
        return NAME
    path = Path(os.path.abspath(own))  # not resolved: the script may be a link into an installation
    if path.is_relative_to(folder):
        path = path.relative_to(folder)
    return shlex.quote(str(path) if len(path.parts) > 1 else f"./{path}")


def find_pip(prefix: str, folder: Path) -> str:
    """Return the command for the pip that installs into `prefix`. Where there is none, as with uv and pipx, or it is on
    the PATH, it is pip."""
    own = Path(prefix, "bin", "pip")
    on_path = shutil.which("pip")
    if not own.exists() or (on_path is not None and Path(on_path) == own):
        return "pip"
    return shlex.quote(str(own.relative_to(folder) if own.is_relative_to(folder) else own))


def _is_script(path: str) -> bool:
    return os.path.basename(path) == NAME and os.access(path, os.X_OK)
