"""ensure_home: a home folder for a user that the system knows only by its number, as in many containers."""

import contextlib
import os
import sys

_STREAMS = ("stdin", "stdout", "stderr")


def ensure_home() -> None:
    """Set HOME to / where there is neither the variable nor an entry for the user, as container engines do.

    Without it Path.expanduser fails, and libraries make a folder named "~" where the program was started.
    """
    if "HOME" in os.environ:
        return
    try:
        import pwd

        pwd.getpwuid(os.getuid())
    except (ImportError, KeyError):
        os.environ["HOME"] = "/"


def open_standard_streams() -> None:
    """Open /dev/null in the place of each of the three that is closed.

    Otherwise the next files and sockets would get their numbers, and what is meant for a log would be written to them.
    """
    for descriptor, name in enumerate(_STREAMS):
        try:
            os.fstat(descriptor)
        except OSError:
            is_read = name == "stdin"
            opened = os.open(os.devnull, os.O_RDONLY if is_read else os.O_WRONLY)  # the lowest number that is free
            if opened != descriptor:
                os.dup2(opened, descriptor)
                os.close(opened)
            os.set_inheritable(descriptor, True)
            if getattr(sys, name) is None:
                with contextlib.suppress(OSError):
                    stream = open(descriptor, "r" if is_read else "w", encoding="utf-8", closefd=False)  # noqa: SIM115
                    setattr(sys, name, stream)
