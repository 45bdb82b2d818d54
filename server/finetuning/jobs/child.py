"""Child: a process that works on one fine-tuning job in the background."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Protocol

from engine.child_processes.background import READY, restore_priority
from engine.child_processes.environment import compute_environment
from engine.child_processes.lifetime import PARENT_VARIABLE
from server.finetuning.jobs.processor_use import ProcessorUse, processor_use

_OUTPUT_LIMIT = 4 << 20  # bytes of a line
_TRACEBACK = "Traceback (most recent call last)"
_SAVE_TIMEOUT_S = 60.0  # after SIGTERM: gigabytes may be saved, at the idle priority


class Child(Protocol):
    """What a server knows of such a process. It has its own session, ends with the server, and may be stopped."""

    async def wait(self) -> int:
        """Its exit status, or the negative number of the signal that ended it."""

    async def output(self) -> bytes:
        """What it wrote to stdout, when it has ended."""

    def stop(self) -> None:
        """Have it compute nothing until `go_on`. Idempotent, as `go_on` is."""

    def go_on(self) -> None: ...

    def kill(self) -> None: ...

    def processor_use(self) -> ProcessorUse | None:
        """None where the system does not tell."""

    def hasten(self) -> None:
        """Have it compute at the usual priority from now on, where the system allows it."""

    async def end(self) -> None:
        """Have it save what it has and end, or else kill it; returns when it is gone, at once if it is killed
        meanwhile."""


# Starts a module of ours with arguments as a child, whose lock is the file, at a priority of
# engine.child_processes.background.
StartChild = Callable[[str, list[str], Path, str], Coroutine[Any, Any, Child]]


class ChildProcess:
    """A Child that is a real process."""

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

    def stop(self) -> None:
        self._signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self._signal(signal.SIGCONT)

    def kill(self) -> None:
        self._signal(signal.SIGKILL)

    def processor_use(self) -> ProcessorUse | None:
        return processor_use(self.pid)

    def hasten(self) -> None:
        if self._process.returncode is None:
            restore_priority(self.pid)

    async def end(self) -> None:
        self._signal(signal.SIGTERM)
        self.go_on()  # a stopped process heeds SIGKILL alone
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_SAVE_TIMEOUT_S):
                await self.wait()
        self.kill()
        await self.wait()

    def _signal(self, number: signal.Signals) -> None:
        """To it and what it has started, such as a compiler."""
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)


async def start_child(module: str, arguments: list[str], lock: Path, priority: str) -> ChildProcess:
    """Return when it may be stopped.

    What it says on stderr is in a log beside the lock: samples are among it, which are no business of the server's log.
    To be called by the event loop of the main thread: the process ends with the thread that starts it. Canceled, it
    leaves no process. Raises OSError.
    """
    with log_of(lock).open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "engine.child_processes.background", priority, str(lock), module, *arguments),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=log,
            start_new_session=True,  # a Ctrl-C in the terminal is the server's to handle
            limit=_OUTPUT_LIMIT,
            env={**compute_environment(), PARENT_VARIABLE: str(os.getpid())},
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


def traceback_of(lock: Path) -> str:
    """Where the last process failed by an error of ours; empty if it did not."""
    try:
        text = log_of(lock).read_text(errors="replace")
    except OSError:
        return ""
    return text[text.rfind(_TRACEBACK) :].strip() if _TRACEBACK in text else ""
