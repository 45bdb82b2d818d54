"""Commands that run in a process of their own are waited for, however they are ended."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

# Slow to end, as in a long native call: longer than the quarter of a second that subprocess.run gives after Ctrl-C.
_WORK = """
import os, signal, sys, time
from pathlib import Path
assert "GOMP_SPINCOUNT" in os.environ  # as in the engine process of a server
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
print("working", flush=True)
signal.sigwait({signal.SIGINT, signal.SIGTERM})
time.sleep(0.5)
Path(sys.argv[1]).write_text("put in order")
sys.exit(130)
"""


# As `headrace quantize` does: what was begun is removed, which takes a while. It waits for what never comes.
_CLEANING = """
import sys, time
from pathlib import Path
from engine.ending import exit_on_sigterm
exit_on_sigterm()
print("working", flush=True)
try:
    time.sleep(600)
finally:
    print("cleaning up", flush=True)
    sys.stdin.readline()  # until the test has sent all
    Path(sys.argv[1]).write_text("put in order")
"""

# As while torch is imported: nothing is handled yet.
_IMPORT = """
import time
print("working", flush=True)
time.sleep(600)
"""


_RUN = """
import signal, sys
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # whatever these tests were started with, such as nohup
    signal.signal(number, signal.SIG_IGN if number == int(sys.argv[2]) else signal.SIG_DFL)
from server.compute_process import run_module
sys.exit(run_module("work_of_test", sys.argv[1]))
"""


def started(tmp_path: Path, source: str, *, ignored: int = 0) -> "subprocess.Popen[bytes]":
    (tmp_path / "work_of_test.py").write_text(source)
    inherited = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    process = subprocess.Popen(
        [sys.executable, "-c", _RUN, str(tmp_path / "done"), str(ignored)],
        env={**inherited, "PYTHONPATH": f"{tmp_path}:{Path(__file__).parents[2]}"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"working\n"
    return process


@pytest.mark.parametrize("from_terminal", [False, True])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_command_is_waited_for_until_it_has_put_its_files_in_order(
    tmp_path: Path, number: signal.Signals, from_terminal: bool
) -> None:
    process = started(tmp_path, _WORK)
    end = os.killpg if from_terminal else os.kill
    end(process.pid, number)
    assert process.wait(timeout=60) == 130
    assert (tmp_path / "done").read_text() == "put in order"


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_cleaning_up_is_not_broken_off(tmp_path: Path, number: signal.Signals, times: int) -> None:
    """SIGTERM of a group, as service managers send it, reaches the process twice; and people press Ctrl-C twice."""
    process = started(tmp_path, _CLEANING)
    assert process.stdin is not None
    assert process.stdout is not None
    os.killpg(process.pid, number)
    assert process.stdout.readline() == b"cleaning up\n"
    for _ in range(times - 1):
        os.killpg(process.pid, number)
    process.stdin.write(b"\n")
    process.stdin.close()
    assert process.wait(timeout=60) == 128 + number
    assert (tmp_path / "done").read_text() == "put in order"


def test_a_signal_that_is_ignored_stays_so(tmp_path: Path) -> None:
    """As under nohup."""
    process = started(tmp_path, _CLEANING, ignored=signal.SIGHUP)
    os.killpg(process.pid, signal.SIGHUP)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(timeout=1)
    os.killpg(process.pid, signal.SIGTERM)
    process.communicate(b"\n", timeout=60)
    assert process.returncode == 128 + signal.SIGTERM


def test_a_process_that_was_killed_is_told(tmp_path: Path) -> None:
    process = started(tmp_path, "import os\nprint('working', flush=True)\nos.kill(os.getpid(), 9)")
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGKILL
    assert b"was ended by SIGKILL (out of memory?)" in errors


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_a_command_that_has_hardly_begun_ends_without_a_traceback(tmp_path: Path, number: signal.Signals) -> None:
    process = started(tmp_path, _IMPORT)
    os.killpg(process.pid, number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert errors == b""
