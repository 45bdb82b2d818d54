"""ForkServer: what a forked process is and has, how its end is seen, and what happens where no fork is possible."""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
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
    with contextlib.closing(ForkServer(modules or (PROGRAM,))) as forks, pytest.MonkeyPatch.context() as patch:
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


def kill_and_await_next(forks: ForkServer) -> None:
    pid = forks.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: forks.pid != pid, "the next fork server is started")


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


def test_a_forked_process_may_run_where_the_main_thread_may(forks: ForkServer) -> None:
    def fork_from_a_bound_thread() -> Description:
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        process, ours, description = forked(forks)
        ours.close()
        process.wait(DEADLINE_S)
        return description

    with ThreadPoolExecutor(1) as threads:
        assert threads.submit(fork_from_a_bound_thread).result().cpus == sorted(os.sched_getaffinity(0))


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


def test_a_fork_server_that_is_killed_is_started_again_and_harms_no_process(caplog: pytest.LogCaptureFixture) -> None:
    with forking() as forks:
        first, second = forked(forks), forked(forks)
        kill_and_await_next(forks)
        for code, (process, ours, description) in enumerate((first, second, forked(forks))):
            with ours:
                assert description.parent == os.getpid()
                ours.sendall(bytes([code]))
                assert process.wait(DEADLINE_S) == code
    (message,) = caplog.messages
    assert "signal 9" in message
    assert "a new process is started" in message


def test_a_fork_server_that_is_killed_often_is_given_up(caplog: pytest.LogCaptureFixture) -> None:
    with forking() as forks:
        for _ in range(fork_server._MAX_RESTARTS):
            kill_and_await_next(forks)
        assert forks.pid is not None
        os.kill(forks.pid, signal.SIGKILL)
        wait_until(lambda: "cannot be used any longer" in caplog.messages[-1], "it is given up")
        with socket.socketpair()[1] as channel:
            assert forks.fork(channel, {}) is None
    assert len(caplog.messages) == fork_server._MAX_RESTARTS + 1


def test_a_fork_server_that_does_not_answer_is_replaced(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(fork_server, "_FORK_TIMEOUT_S", 0.1)
    with forking() as forks:
        forked(forks)[1].close()
        pid = forks.pid
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        with socket.socketpair()[1] as channel:
            assert forks.fork(channel, {}) is None
        wait_until(lambda: forks.pid != pid, "a new one is started")
    assert "does not answer" in caplog.messages[0]


def test_a_refused_fork_leaves_the_fork_server_in_use(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with forking() as forks, socket.socketpair()[1] as channel:
        pid = forks.pid
        with monkeypatch.context() as patch:
            patch.setattr(ForkServer, "_exchange", lambda *_: 0)
            assert forks.fork(channel, {}) is None
        forked(forks)[1].close()
        assert forks.pid == pid
    assert "refused" in caplog.text


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
        await until(lambda: bool(caplog.messages))
    (message,) = caplog.messages
    assert reason in message
    assert "imports its libraries" in message


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


def test_nothing_begins_where_python_lacks_a_system_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Python that was built for kernels older than Linux 5.3, as some are that run on newer ones."""
    monkeypatch.delattr(os, "pidfd_open")
    with contextlib.closing(ForkServer((PROGRAM,))) as forks:
        forks.begin([CPU])
        assert forks.pid is None
