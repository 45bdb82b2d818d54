"""The end of a child process: on SIGTERM or with its parent, and the description of its exit status."""

import ctypes
import os
import signal
import sys

PARENT_VARIABLE = "HEADRACE_PARENT_PID"  # of the process that waits for this one; removed when it is read
_PR_SET_PDEATHSIG, _PR_GET_PDEATHSIG = 1, 2


def exit_on_sigterm() -> None:
    """Make SIGTERM raise SystemExit, so that unfinished files are removed. A second SIGTERM is ignored."""

    def end(*_: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        sys.exit(128 + signal.SIGTERM)

    signal.signal(signal.SIGTERM, end)


def end_with_parent(by: signal.Signals = signal.SIGTERM) -> None:
    """Make the system send this process a signal when the thread that started it ends, and so when its parent dies,
    however that happens (Linux only). Exits if the parent is dead already.

    SIGKILL also ends a process that is stopped, or that is in native code and handles no other signal. Once SIGKILL is
    set, later calls do not change the signal.
    """
    if sys.platform == "linux":
        prctl, now = ctypes.CDLL(None).prctl, ctypes.c_int()
        prctl(_PR_GET_PDEATHSIG, ctypes.byref(now))
        if now.value != signal.SIGKILL:
            prctl(_PR_SET_PDEATHSIG, by)
    parent = os.environ.pop(PARENT_VARIABLE, None)
    if parent is not None and int(parent) != os.getppid():
        sys.exit(128 + signal.SIGTERM)


def describe_exit(returncode: int) -> str:
    """Describe how a child ended, by its return code: `exit status 1`, `signal 11 (SIGSEGV)`."""
    if returncode >= 0:
        return f"exit status {returncode}"
    if -returncode not in set(signal.Signals):
        return f"signal {-returncode}"
    name = signal.Signals(-returncode).name
    hint = ", often sent by the system for lack of memory" if name == "SIGKILL" else ""
    return f"signal {-returncode} ({name}{hint})"
