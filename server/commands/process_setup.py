"""Setup of the process: HOME for users without a passwd entry, and open standard streams."""

import contextlib
import os
import sys

_STREAMS = ("stdin", "stdout", "stderr")


def ensure_home() -> None:
    """Set HOME to /, as container engines do, if it is unset and the user has no passwd entry.

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
    """Open /dev/null for each standard stream that is closed, as under some supervisors.

    Otherwise the next opened file or socket would get descriptor 0, 1 or 2, and log lines would be written into it.
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
