"""Commands that run in a process of their own are waited for, however they are ended."""

import contextlib
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.child_processes.lifetime import PARENT_VARIABLE
from tests.helpers.repository import ROOT

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


# As `headrace quantize` does: partial output is removed, which takes a while. It waits for what never comes.
_CLEANING = """
import sys, time
from pathlib import Path
from engine.child_processes.lifetime import end_with_parent, exit_on_sigterm
exit_on_sigterm()
end_with_parent()
try:
    print("working", flush=True)  # within: the test's signal may come with the next instruction
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
import os, signal, subprocess, sys
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # whatever these tests were started with, such as nohup
    signal.signal(number, signal.SIG_IGN if number == int(sys.argv[2]) else signal.SIG_DFL)
from server.commands.child_process import run_module
start = subprocess.Popen
def interrupted(*arguments, **options):
    process = start(*arguments, **options)
    os.kill(os.getpid(), int(sys.argv[3]))
    return process
if int(sys.argv[3]):
    subprocess.Popen = interrupted
sys.exit(run_module("work_of_test", sys.argv[1]))
"""


class Starter:
    """Runs a source by run_module in a process group of its own, which does not outlive the test."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._processes: list[subprocess.Popen[bytes]] = []

    def __call__(self, source: str, *, ignored: int = 0, meanwhile: int = 0) -> "subprocess.Popen[bytes]":
        """`meanwhile`: the signal that the caller of run_module receives when the module's process is hardly there."""
        (self._folder / "work_of_test.py").write_text(source)
        inherited = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
        process = subprocess.Popen(
            [sys.executable, "-c", _RUN, str(self._folder / "done"), str(ignored), str(meanwhile)],
            env={**inherited, "PYTHONPATH": f"{self._folder}:{ROOT}"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            bufsize=0,  # `line_of` must not take two lines at once
        )
        self._processes.append(process)
        return process

    def kill(self) -> None:
        for process in self._processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Starter]:
    starter = Starter(tmp_path)
    yield starter
    starter.kill()


def line_of(process: "subprocess.Popen[bytes]") -> bytes:
    assert process.stdout is not None
    assert select.select([process.stdout], [], [], 60)[0], "nothing was printed"
    return process.stdout.readline()


@pytest.mark.parametrize("from_terminal", [False, True])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_command_is_waited_for_until_it_has_put_its_files_in_order(
    start: Starter, tmp_path: Path, number: signal.Signals, from_terminal: bool
) -> None:
    process = start(_WORK)
    assert line_of(process) == b"working\n"
    end = os.killpg if from_terminal else os.kill
    end(process.pid, number)
    assert process.wait(timeout=60) == 130
    assert (tmp_path / "done").read_text() == "put in order"


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_cleaning_up_is_not_broken_off(start: Starter, tmp_path: Path, number: signal.Signals, times: int) -> None:
    """SIGTERM of a group, as service managers send it, reaches the process twice; and people press Ctrl-C twice."""
    process = start(_CLEANING)
    assert line_of(process) == b"working\n"
    assert process.stdin is not None
    os.killpg(process.pid, number)
    assert line_of(process) == b"cleaning up\n"
    for _ in range(times - 1):
        os.killpg(process.pid, number)
    process.stdin.write(b"\n")
    process.stdin.close()
    assert process.wait(timeout=60) == 128 + number
    assert (tmp_path / "done").read_text() == "put in order"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_what_comes_while_the_process_is_started_is_passed_on(start: Starter, number: signal.Signals) -> None:
    process = start(_IMPORT, meanwhile=number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert errors == b"headrace: stopped\n"


@pytest.mark.skipif(sys.platform != "linux", reason="end_with_parent is for Linux")
def test_a_process_ends_with_the_one_that_waits_for_it(start: Starter, tmp_path: Path) -> None:
    process = start(_CLEANING)
    assert line_of(process) == b"working\n"
    process.kill()
    assert line_of(process) == b"cleaning up\n"
    process.communicate(b"\n", timeout=60)  # until it has closed its end
    assert (tmp_path / "done").read_text() == "put in order"


def test_a_process_whose_parent_is_dead_already_does_not_begin() -> None:
    """The parent was killed while the process was starting."""
    source = "from engine.child_processes.lifetime import end_with_parent; end_with_parent(); print('begun')"
    for parent, code, printed in ((0, 128 + signal.SIGTERM, ""), (os.getpid(), 0, "begun\n")):
        environment = {**os.environ, PARENT_VARIABLE: str(parent), "PYTHONPATH": str(ROOT)}
        ended = subprocess.run([sys.executable, "-c", source], env=environment, capture_output=True, text=True)
        assert (ended.returncode, ended.stdout) == (code, printed)


def test_a_signal_that_is_ignored_stays_so(start: Starter) -> None:
    """nohup ignores SIGHUP."""
    process = start(_CLEANING, ignored=signal.SIGHUP)
    assert line_of(process) == b"working\n"
    os.killpg(process.pid, signal.SIGHUP)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(timeout=0.3)
    os.killpg(process.pid, signal.SIGTERM)
    process.communicate(b"\n", timeout=60)
    assert process.returncode == 128 + signal.SIGTERM


def test_a_process_that_was_killed_is_told(start: Starter) -> None:
    process = start("import os\nprint('working', flush=True)\nos.kill(os.getpid(), 9)")
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGKILL
    assert b"was ended by signal 9 (SIGKILL, often sent by the system for lack of memory)" in errors


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_a_command_that_has_hardly_begun_ends_without_a_traceback(start: Starter, number: signal.Signals) -> None:
    process = start(_IMPORT)
    assert line_of(process) == b"working\n"
    os.killpg(process.pid, number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert errors == b"headrace: stopped\n"
