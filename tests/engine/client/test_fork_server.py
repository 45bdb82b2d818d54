"""ForkServer: what a forked process is and has, how its end is seen, and what happens where no fork is possible."""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from engine.child_processes.frames import receive_frame
from engine.client import fork_server, supervisor
from engine.client.engine_process import start_engine
from engine.client.fork_server import ForkedProcess, ForkServer, can_fork
from engine.client.interface import EngineCallbacks, EngineState
from engine.config import EngineConfig
from engine.protocol import IMPORT_STAGE, EngineInfo
from tests.helpers.deadline import DEADLINE_S, until, wait_until
from tests.helpers.forked_program import Description
from tests.helpers.scripted_client import read_all, scripted_client, scripted_pid, scripted_request
from tests.helpers.scripted_engine import INFO
from tests.helpers.server_process import is_alive

CPU = EngineConfig(device="cpu")
PROGRAM = "tests.helpers.forked_program"
ROOT = Path(__file__).parents[3]


@contextlib.contextmanager
def forking(*modules: str) -> Iterator[ForkServer]:
    with contextlib.closing(ForkServer(modules or (PROGRAM,))) as forks:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PYTHONPATH", str(ROOT))  # for modules of the tests, which are not installed
            forks.begin([CPU])
        yield forks


@pytest.fixture(scope="module")
def forks() -> Iterator[ForkServer]:
    with forking() as each:
        yield each


def forked(forks: ForkServer, **variables: str) -> tuple[ForkedProcess, socket.socket, Description]:
    ours, theirs = socket.socketpair()
    with theirs:
        process = forks.fork(theirs, variables)
    assert process is not None
    frame = receive_frame(ours)
    assert frame is not None
    return process, ours, msgspec.msgpack.decode(frame, type=Description)


def test_a_forked_process_is_a_child_with_a_session_and_variables_of_its_own(
    forks: ForkServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    forked(forks, HEADRACE_OLD="1")[1].close()
    monkeypatch.setenv("HEADRACE_OLD", "0")  # of this process, but not of the next one
    process, ours, description = forked(forks, HEADRACE_OWN="2", OTHERS="3")
    with ours:
        assert (description.pid, description.parent, description.session) == (process.pid, os.getpid(), process.pid)
        assert description.num_threads == 1
        own = {name: value for name, value in description.variables.items() if name.startswith("HEADRACE_")}
        assert own == {"HEADRACE_OWN": "2"}
        assert "OTHERS" not in description.variables
        assert description.variables["PATH"] == os.environ["PATH"]
        assert description.stderr == os.readlink("/proc/self/fd/2")
        (channel,) = description.open_files  # the fork server's own are closed
        assert channel.startswith("socket:")
        command = Path(f"/proc/{process.pid}/cmdline").read_bytes().rstrip(b"\0").decode().split("\0")
        assert command[:-1] == [sys.executable, "-P", "-m", PROGRAM]
    assert process.wait(DEADLINE_S) == 0


def test_its_exit_status_or_signal_is_seen_as_that_of_any_child(forks: ForkServer) -> None:
    process, ours, _ = forked(forks)
    assert process.poll() is None
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.0)
    with ours:
        ours.sendall(b"\x07")
        assert process.wait() == process.wait(DEADLINE_S) == process.poll() == 7
    process, ours, _ = forked(forks)
    with ours:
        os.killpg(process.pid, signal.SIGKILL)
        assert process.wait(DEADLINE_S) == -signal.SIGKILL


def test_two_processes_live_beside_each_other_and_the_fork_server_may_die_before_them(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with forking() as forks:
        first, second = forked(forks), forked(forks)
        assert forks.pid is not None
        os.kill(forks.pid, signal.SIGKILL)
        with socket.socketpair()[1] as channel:
            assert forks.fork(channel, {}) is forks.fork(channel, {}) is None
        for code, (process, ours, description) in enumerate((first, second)):
            with ours:
                assert description.parent == os.getpid()
                ours.sendall(bytes([code]))
                assert process.wait(DEADLINE_S) == code
    (message,) = caplog.messages
    assert "signal 9" in message
    assert "imports its libraries" in message


@pytest.mark.parametrize(
    ("module", "reason"), [("tests.helpers.threaded_program", "exit status 1"), ("tests.no_such", "exit status 1")]
)
async def test_an_engine_is_started_by_its_command_where_no_fork_is_possible(
    module: str, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    command = (sys.executable, "-c", "raise SystemExit(9)")
    with forking(module) as forks:
        engine = await start_engine(command, CPU, forks)
        assert await engine.run(lambda _: None) == 9
    assert [record.levelno for record in caplog.records if reason in record.message] == [logging.WARNING]


async def test_a_killed_engine_is_followed_by_one_that_is_forked_too() -> None:
    pids: list[int | None] = []
    with forking("tests.helpers.scripted_engine") as forks:
        callbacks = EngineCallbacks(on_process=pids.append)
        async with scripted_client(command=("/no/such",), fork_server=forks, callbacks=callbacks) as client:
            await client.wait_ready()
            first = scripted_pid()
            outputs = await read_all(client.submit(scripted_request("a", -8, 3)))  # which the first one's exit cuts
            assert [token_id for output in outputs for token_id in output.new_ids] == [0, 1, 2]
            await until(lambda: client.status().state is EngineState.READY)
            assert pids == [first, None, scripted_pid()]
    assert pids[-1] is None


@pytest.mark.parametrize("last", [None, INFO, msgspec.structs.replace(INFO, decode_step_s=5.0)])
async def test_an_engine_gets_the_step_times_of_the_one_before_it(last: EngineInfo | None) -> None:
    code = "import json, os; raise SystemExit(int(json.loads(os.environ.get('HEADRACE_STEP_TIMES', '[0, 9]'))[1]))"
    engine = await start_engine((sys.executable, "-c", code), CPU, None, last)
    assert await engine.run(lambda _: None) == (5 if last is not None and last.decode_step_s else 9)


async def test_a_server_can_stop_while_engines_wait_for_the_imports(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "EXIT_TIMEOUT_S", 10 * DEADLINE_S)
    pids: list[int | None] = []
    with forking("tests.helpers.slow_program") as forks:
        async with asyncio.timeout(DEADLINE_S):
            async with scripted_client(fork_server=forks, callbacks=EngineCallbacks(on_process=pids.append)) as client:
                await until(lambda: client.status().stage == IMPORT_STAGE)
    assert pids == []


def test_a_fork_that_waits_for_the_imports_ends_when_it_is_closed() -> None:
    code = (
        "import socket, threading\n"
        "from engine.client.fork_server import ForkServer\n"
        "from engine.config import EngineConfig\n"
        "forks = ForkServer(('tests.helpers.slow_program',)); forks.begin([EngineConfig(device='cpu')])\n"
        "waiting = threading.Thread(target=forks.fork, args=(socket.socketpair()[1], {})); waiting.start()\n"
        "forks.close(); waiting.join()"
    )
    command, environment = [sys.executable, "-c", code], {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=DEADLINE_S, check=True)
    assert done.stderr == ""


def test_all_end_with_the_process_that_has_begun_them() -> None:
    """Killed, with a forked process that is stopped."""
    code = (
        "import os, signal\n"
        "from tests.engine.client.test_fork_server import forked, forking\n"
        "with forking() as forks:\n"
        "    process, ours, _ = forked(forks, HEADRACE_PARENT_PID=str(os.getpid()))\n"
        "    os.kill(process.pid, signal.SIGSTOP); print(forks.pid, process.pid, flush=True); signal.pause()"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pids = [int(each) for each in parent.stdout.readline().split()]
        assert all(map(is_alive, pids))
        parent.kill()
        wait_until(lambda: not any(map(is_alive, pids)), "all are gone")


def test_the_libraries_of_an_engine_leave_one_thread_and_cuda_alone() -> None:
    with forking(PROGRAM, *fork_server._MODULES) as forks:
        process, ours, description = forked(forks)
    with ours:
        assert (description.num_threads, description.has_cuda) == (1, False)
    assert process.wait(DEADLINE_S) == 0


@pytest.mark.parametrize(
    ("device", "files", "expected"),
    [
        ("cpu", ["/"], True),
        ("auto", [], True),
        ("auto", ["/", "/no/such"], False),
        ("cuda", [], False),
        ("cuda:1", [], False),
    ],
)
def test_an_engine_that_may_use_a_gpu_is_not_forked(
    device: str, files: list[str], expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fork_server, "_GPU_FILES", files)
    assert can_fork(EngineConfig(device=device)) is expected


def test_nothing_begins_for_engines_that_are_not_forked() -> None:
    with contextlib.closing(ForkServer((PROGRAM,))) as forks, socket.socketpair()[1] as channel:
        forks.begin([EngineConfig(device="cuda")])
        assert forks.pid is None
        assert forks.fork(channel, {}) is None
