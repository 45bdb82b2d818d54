"""TemplateProcesses: runs templates in processes that are killed when they take too long or too much.

A process is started for the first template, and one more whenever all are busy; so there are never more than threads
that render. A rendering costs a tenth of a millisecond more than in this process, and does not hold its lock.
"""

import json
import marshal
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping
from typing import Any

from engine.child_processes.lifetime import describe_exit
from server.text.template_frames import Kind, receive_frame, send_frame
from server.text.template_runner import (
    TemplateFacts,
    TemplateLimits,
    TemplateOverrun,
    TemplateRefusal,
    TemplateUnreadable,
)

_COMMAND = (sys.executable, "-P", "-m", "server.text.template_process")  # -P: not from the current folder
_CLOCK_FACTOR = 2  # seconds by the clock for one of the processor, on a machine that has other work too
_START_TIMEOUT_S = 60.0
_END_TIMEOUT_S = 1.0


class TemplateProcesses:
    """A TemplateRunner. Whoever makes it closes it."""

    def __init__(self, limits: TemplateLimits = TemplateLimits()) -> None:  # noqa: B008 - it is frozen
        self._limits = limits
        self._idle: list[_Process] = []
        self._all: set[_Process] = set()
        self._lock = threading.Lock()
        self._is_closed = False

    def begin(self) -> None:
        """Start a process ahead of the first template."""
        self._put_back(self._new())

    def inspect(self, source: str) -> TemplateFacts:
        facts = json.loads(self._run(Kind.INSPECT, source, None))
        return TemplateFacts(**{name: frozenset(values) for name, values in facts.items()})

    def render(self, source: str, variables: Mapping[str, Any]) -> str:
        return self._run(Kind.RENDER, source, variables).decode("utf-8", "surrogatepass")

    def close(self) -> None:
        """End all processes; templates that run raise TemplateOverrun."""
        with self._lock:
            self._is_closed = True
            busy, idle = self._all.difference(self._idle), self._idle
            self._all, self._idle = set(), []
        for process in busy:
            process.kill()  # and the thread that waits for it discards it
        for process in idle:
            process.discard()

    def _run(self, kind: Kind, source: str, variables: Mapping[str, Any] | None) -> bytearray:
        """The reply's payload. Raises as the methods of TemplateRunner."""
        process = self._take()
        try:
            reply, payload = process.ask(kind, marshal.dumps((source, None if variables is None else dict(variables))))
        except BaseException:
            self._end(process)
            raise
        self._put_back(process)
        if reply in (Kind.FACTS, Kind.TEXT):
            return payload
        message = payload.decode("utf-8", "replace")
        if reply is Kind.UNREADABLE:
            raise TemplateUnreadable(message)
        raise TemplateRefusal(message) if reply is Kind.REFUSAL else TemplateOverrun(message)

    def _take(self) -> "_Process":
        while True:
            with self._lock:
                process = self._idle.pop() if self._idle else None
            if process is None:
                return self._new()
            if process.is_alive:
                return process
            self._end(process)  # the system's out-of-memory killer, say

    def _new(self) -> "_Process":
        process = _Process(self._limits)
        with self._lock:
            if not self._is_closed:
                self._all.add(process)
                return process
        process.discard()
        raise TemplateOverrun("the server ends")

    def _put_back(self, process: "_Process") -> None:
        with self._lock:
            if process in self._all:
                self._idle.append(process)
                return
        process.discard()

    def _end(self, process: "_Process") -> None:
        with self._lock:
            self._all.discard(process)
        process.discard()


class _Process:
    """One process; for one thread at a time, but for `kill`."""

    def __init__(self, limits: TemplateLimits) -> None:
        self._channel, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [*_COMMAND, str(limits.seconds), str(limits.num_bytes)],
                # Of the server's own variables, keys are among them, a template's process needs none.
                env={name: value for name, value in os.environ.items() if not name.startswith("HEADRACE_")},
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                start_new_session=True,  # a terminal's Ctrl-C is the server's to handle
            )
        self._limits = limits
        self._has_started = False

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    def ask(self, kind: Kind, request: bytes) -> tuple[Kind, bytearray]:
        """The reply. Raises TemplateOverrun; the process has to be discarded then."""
        timeout_s = _CLOCK_FACTOR * self._limits.seconds
        try:
            self._await_start()
            self._channel.settimeout(timeout_s)
            send_frame(self._channel, kind, request)
            return receive_frame(self._channel)
        except TimeoutError:
            raise TemplateOverrun(f"it ran for more than {timeout_s:g} s and was ended") from None
        except (EOFError, OSError):
            raise TemplateOverrun(self._describe_end()) from None

    def _await_start(self) -> None:
        """What it imports takes a while, on a busy machine a long one."""
        if not self._has_started:
            self._channel.settimeout(_START_TIMEOUT_S)
            receive_frame(self._channel)
            self._has_started = True

    def _describe_end(self) -> str:
        try:
            code = self._process.wait(_END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            return "the process that it ran in closed its socket"
        if code == -signal.SIGXCPU:
            return f"it ran for more than {self._limits.seconds:g} s"
        return f"the process that it ran in was ended ({describe_exit(code)})"

    def kill(self) -> None:
        """End it, for any thread; what it was asked is not answered."""
        self._process.kill()

    def discard(self) -> None:
        self.kill()
        self._process.wait()
        self._channel.close()
