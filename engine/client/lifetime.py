"""How a process of ours ends: on SIGTERM, and with its parent."""

import ctypes
import os
import signal
import sys

PARENT_VARIABLE = "HEADRACE_PARENT_PID"  # of the process that waits for this one; taken out when it is read
_PR_SET_PDEATHSIG = 1


def exit_on_sigterm() -> None:
    """From now on SIGTERM raises SystemExit, so that unfinished files are removed; a second one does not stop that."""

    def end(*_: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        sys.exit(128 + signal.SIGTERM)

    signal.signal(signal.SIGTERM, end)


def end_with_parent() -> None:
    """From now on this process gets SIGTERM when its parent dies, however that happens (Linux only); exits if it is
    dead already."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    parent = os.environ.pop(PARENT_VARIABLE, None)
    if parent is not None and int(parent) != os.getppid():
        sys.exit(128 + signal.SIGTERM)
