"""Child: a process that works on a background job, at low priority, and can be suspended."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from engine.child_processes.background import READY, restore_priority
from engine.child_processes.environment import compute_environment

_OUTPUT_LIMIT = 4 << 20  # bytes of a line
_TRACEBACK = "Traceback (most recent call last)"
_SAVE_TIMEOUT_S = 60.0  # after SIGTERM: gigabytes may be saved, at the idle priority
_STATE, _USER, _SYSTEM = 0, 11, 12  # fields of /proc/PID/stat, counted from behind the name


@dataclass(frozen=True, slots=True)
class ProcessorUse:
    """CPU use of a process. seconds: CPU time of all its threads since its start. is_ready: whether a thread is running
    or runnable; if not, all threads are blocked (on disk I/O, for example) or stopped."""

    seconds: float
    is_ready: bool


class Child(Protocol):
    """Interface of a child process, which has its own session, and ends with the server."""

    async def wait(self) -> int:
        """Return the exit status, or the negative number of the signal that ended the process."""

    async def output(self) -> bytes:
        """Return everything that the process has written to stdout, once it has ended."""

    def suspend(self) -> None:
        """Stop the process until `resume` is called. Both are idempotent."""

    def resume(self) -> None: ...

    def kill(self) -> None: ...

    def processor_use(self) -> ProcessorUse | None:
        """Return the CPU use so far; None if the system does not report it."""

    def raise_priority(self) -> None:
        """Give the process normal priority from now on, if the system allows it."""

    async def end(self) -> None:
        """Make the process save its work and exit, or kill it if that takes too long. Returns once it has exited, early
        if `kill` is called."""


# Starts a module of ours with arguments as a child, whose lock is the file, at a priority of
# engine.child_processes.background.
StartChild = Callable[[str, list[str], Path, str], Coroutine[Any, Any, Child]]


@dataclass(slots=True)
class ChildEnding:
    """The way in which a canceled task ends its child: by killing it, or after the child has saved its work."""

    is_saving: bool = True
    child: Child | None = field(default=None, init=False)

    def kill(self) -> None:
        """Kill the child now. A child started later is killed when the task is canceled, without saving."""
        self.is_saving = False
        if self.child is not None:
            self.child.kill()

    def kill_after(self, seconds: float) -> None:
        """Kill the child after `seconds`. Until then it saves its work, at normal priority, as the server waits."""
        if self.child is not None:
            self.child.raise_priority()
        asyncio.get_running_loop().call_later(seconds, self.kill)


class ChildProcess:
    """Implementation of Child with an asyncio subprocess."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @property
    def pid(self) -> int:
        return self._process.pid

    async def wait(self) -> int:
        return await self._process.wait()

    async def output(self) -> bytes:
        assert self._process.stdout is not None
        return await self._process.stdout.read()

    def suspend(self) -> None:
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def kill(self) -> None:
        self._signal(signal.SIGKILL)

    def processor_use(self) -> ProcessorUse | None:
        return processor_use(self.pid)

    def raise_priority(self) -> None:
        if self._process.returncode is None:
            restore_priority(self.pid)

    async def end(self) -> None:
        self._signal(signal.SIGTERM)
        self.resume()  # a stopped process handles no signal but SIGKILL
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_SAVE_TIMEOUT_S):
                await self.wait()
        self.kill()
        await self.wait()

    def _signal(self, number: signal.Signals) -> None:
        """Signal the process and its own child processes, such as a compiler."""
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)


async def start_child(module: str, arguments: list[str], lock: Path, priority: str) -> ChildProcess:
    """Start a module as a child process, and return once it may be suspended. If canceled, leaves no process. Raises
    OSError.

    lock: file that the process locks, so that only one such process runs. priority: "idle", "low" or "normal".

    The process's stderr goes to a log beside the lock: it may contain samples of a client's data, which the server's
    own log must not. The event loop of the main thread must call this: the process ends with the thread that starts it.
    """
    with log_of(lock).open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "engine.child_processes.background", priority, str(lock), module, *arguments),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=log,
            start_new_session=True,  # a Ctrl-C in the terminal is the server's to handle
            limit=_OUTPUT_LIMIT,
            env=compute_environment(),
        )
    child = ChildProcess(process)
    assert process.stdout is not None
    try:
        line = await process.stdout.readline()
    except BaseException:
        child.kill()
        await process.wait()
        raise
    assert line in (READY, b""), "an ended process says nothing, and its exit status says why"
    return child


def log_of(lock: Path) -> Path:
    return lock.with_name("process.log")


def read_log(lock: Path) -> str:
    """Return everything that the last process wrote to stderr; empty if there is no log."""
    try:
        return log_of(lock).read_text(errors="replace")
    except OSError:
        return ""


def traceback_of(lock: Path) -> str:
    """Return the last Python traceback in the process's log; empty if there is none."""
    text = read_log(lock)
    return text[text.rfind(_TRACEBACK) :].strip() if _TRACEBACK in text else ""


def processor_use(pid: int) -> ProcessorUse | None:
    """Return the CPU use of a process; None if the system does not report it, or the process has ended."""
    folder = Path(f"/proc/{pid}")
    try:
        whole = _fields(folder / "stat")
        is_ready = any(_fields(each / "stat")[_STATE] == "R" for each in (folder / "task").iterdir())
    except OSError:
        return None
    return ProcessorUse((int(whole[_USER]) + int(whole[_SYSTEM])) / os.sysconf("SC_CLK_TCK"), is_ready)


def _fields(path: Path) -> list[str]:
    return path.read_text().rpartition(")")[2].split()
