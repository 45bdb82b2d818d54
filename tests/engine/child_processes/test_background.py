"""Work in the background: it gives way, holds its lock, and ends with its parent even while it is stopped."""

import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from engine.child_processes.background import LOCK_HELD, READY
from engine.child_processes.lifetime import PARENT_VARIABLE
from tests.helpers.deadline import wait_until
from tests.helpers.server_process import is_alive, state

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="priorities and parents' deaths are Linux's")

_SLEEP = ("timeit", "-n1", "-r1", "import time; time.sleep(600)")
# Starts what it is given, tells its process id, and waits for nothing.
_PARENT = """
import os, subprocess, sys, time
environment = {**os.environ, "%s": str(os.getpid())}
child = subprocess.Popen(sys.argv[1:], stdout=subprocess.PIPE, start_new_session=True, env=environment)
child.stdout.readline()
print(child.pid, flush=True)
time.sleep(600)
"""


def _command(priority: str, lock: Path, *module: str) -> list[str]:
    return [sys.executable, "-P", "-m", "engine.child_processes.background", priority, str(lock), *module]


def _start(*arguments: str, lock: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        _command(arguments[0], lock, *arguments[1:]),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        env={**os.environ, PARENT_VARIABLE: str(os.getpid())},
    )


@pytest.mark.parametrize(
    ("priority", "policy", "niceness"),
    [("idle", os.SCHED_IDLE, 0), ("low", os.SCHED_OTHER, 10), ("normal", os.SCHED_OTHER, 0)],
)
def test_it_computes_at_its_priority_and_holds_its_lock(
    tmp_path: Path, priority: str, policy: int, niceness: int
) -> None:
    lock = tmp_path / "lock"
    with _start(priority, *_SLEEP, lock=lock) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == READY
            assert os.sched_getscheduler(process.pid) == policy
            own = os.getpriority(os.PRIO_PROCESS, 0)
            assert os.getpriority(os.PRIO_PROCESS, process.pid) == min(19, own + niceness)
            assert Path(f"/proc/{process.pid}/oom_score_adj").read_text().strip() == "1000"
            with lock.open() as file, pytest.raises(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        finally:
            process.kill()
    with lock.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_lock_that_is_held_for_long_is_told(tmp_path: Path) -> None:
    script = (
        "import sys; from engine.child_processes import background; background._LOCK_TIMEOUT_S = 0.05; "
        "sys.exit(background.main(sys.argv[1:]))"
    )
    with (tmp_path / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        run = subprocess.run(
            [sys.executable, "-P", "-c", script, "idle", str(tmp_path / "lock"), *_SLEEP],
            capture_output=True,
            check=False,
            timeout=60,
        )
    assert run.returncode == LOCK_HELD
    assert run.stdout == b""
    assert b"is held by another process" in run.stderr


@pytest.mark.parametrize("is_stopped", [False, True])
def test_it_ends_with_its_parent(tmp_path: Path, is_stopped: bool) -> None:
    command = [sys.executable, "-c", _PARENT % PARENT_VARIABLE, *_command("idle", tmp_path / "lock", *_SLEEP)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        if is_stopped:
            os.kill(child, signal.SIGSTOP)
            wait_until(lambda: state(child) == "T", "it is stopped")
        parent.kill()
    wait_until(lambda: not is_alive(child), "it has ended with its parent")
