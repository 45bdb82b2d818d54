"""Preparation of the process: HOME for users without an entry, and standard streams that are open."""

import contextlib
import os
import sys

_STREAMS = ("stdin", "stdout", "stderr")


def ensure_home() -> None:
    """Set HOME to /, as container engines do, if the variable is unset and the user has no entry.

    Otherwise Path.expanduser fails, and libraries create a folder named "~" in the current folder.
    """
    if "HOME" in os.environ:
        return
    try:
        import pwd

        pwd.getpwuid(os.getuid())
    except (ImportError, KeyError):
        os.environ["HOME"] = "/"


def open_standard_streams() -> None:
    """Open /dev/null in place of each standard stream that is closed, as some supervisors leave them.

    Otherwise the next files and sockets would get their numbers, and log lines would be written into them.
    """
    for descriptor, name in enumerate(_STREAMS):
        try:
            os.fstat(descriptor)
        except OSError:
            is_read = name == "stdin"
            opened = os.open(os.devnull, os.O_RDONLY if is_read else os.O_WRONLY)  # gets the lowest free number
            if opened != descriptor:
                os.dup2(opened, descriptor)
                os.close(opened)
            os.set_inheritable(descriptor, True)
            if getattr(sys, name) is None:
                with contextlib.suppress(OSError):
                    stream = open(descriptor, "r" if is_read else "w", encoding="utf-8", closefd=False)  # noqa: SIM115
                    setattr(sys, name, stream)
