"""`python -m engine.child_processes.background PRIORITY LOCK MODULE [ARGUMENT...]`: runs a module of headrace as work
that no client waits for, and that may be stopped by SIGSTOP at any moment.

PRIORITY is "idle" (to compute when no other process wants the processor), "low" (to get a small share beside others)
or "normal". LOCK is a file that one such process at a time holds, until it has ended, however that happens. When
priority and lock are set, the process writes a line to stdout: before that it must not be stopped. Where memory is
short, the system ends this process first.
"""

import contextlib
import errno
import fcntl
import os
import runpy
import signal
import sys
import time
from collections.abc import Sequence

from engine.child_processes.lifetime import end_with_parent

IDLE, LOW, NORMAL = "idle", "low", "normal"
_LOW_NICENESS, _LOWEST_NICENESS = 10, 19
READY = b"ready\n"
TRY_AGAIN = os.EX_TEMPFAIL  # exit status: the obstacle, such as a full disk, will pass
LOCK_HELD = os.EX_UNAVAILABLE  # exit status: another process holds the lock
REASON_PREFIX = "headrace: "  # prefix of the line on stderr with the reason of an exit status
_FULL_DISK = (errno.ENOSPC, errno.EDQUOT)

_LOCK_TIMEOUT_S = 30.0  # for the end of a process whose parent was killed
_POLL_S = 0.02


def main(argv: Sequence[str]) -> int:
    priority, lock, module, *arguments = argv
    end_with_parent(signal.SIGKILL)
    _write("/proc/self/oom_score_adj", "1000")
    give_way(priority)
    with open(lock, "w") as file:
        if not _locked(file.fileno()):
            sys.stderr.write(f"headrace: {lock} is held by another process\n")
            return LOCK_HELD
        os.write(sys.stdout.fileno(), READY)
        sys.argv = [module, *arguments]
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    return 0


def give_way(priority: str) -> None:
    """Run this thread, and the threads that it starts, at a priority: "idle", "low" or "normal"."""
    if priority == NORMAL:
        return
    niceness = _LOW_NICENESS if priority == LOW else _LOWEST_NICENESS
    try:
        if priority == IDLE:
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
        else:
            os.nice(niceness)
    except OSError:
        os.nice(niceness)
    # Where the kernel shares processors out among sessions, priorities count within one, and this is the session's.
    if os.getsid(0) == os.getpid():  # the session is this process's own
        _write("/proc/self/autogroup", str(niceness))


def is_full_disk(error: Exception) -> bool:
    """Return whether an error came from a full disk, so that the same work may succeed later."""
    return isinstance(error, OSError) and error.errno in _FULL_DISK


def restore_priority(pid: int) -> None:
    """Raise another process to this one's priority, where the system allows it, so that it ends soon."""
    niceness = os.getpriority(os.PRIO_PROCESS, 0)
    for thread_id in _threads(pid):  # priorities are each thread's own, and a loop ends when the last of them has
        with contextlib.suppress(OSError):
            if hasattr(os, "SCHED_IDLE") and os.sched_getscheduler(thread_id) == os.SCHED_IDLE:
                os.sched_setscheduler(thread_id, os.SCHED_OTHER, os.sched_param(0))
            os.setpriority(os.PRIO_PROCESS, thread_id, niceness)
    _write(f"/proc/{pid}/autogroup", "0")


def _threads(pid: int) -> list[int]:
    """Return the ids of a process's threads; none if the process is gone."""
    try:
        return [int(name) for name in os.listdir(f"/proc/{pid}/task")]
    except OSError:
        return []


def _locked(descriptor: int) -> bool:
    end_s = time.monotonic() + _LOCK_TIMEOUT_S
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() >= end_s:
                return False
            time.sleep(_POLL_S)


def _write(path: str, text: str) -> None:
    """Write to a file under /proc; do nothing if it is missing or may not be written."""
    with contextlib.suppress(OSError), open(path, "w") as file:
        file.write(text)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
