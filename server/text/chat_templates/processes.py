"""TemplateProcesses: a TemplateRunner with processes that are killed if they exceed their limits.

A process is started for the first template, and another one whenever all are busy, so there are never more processes
than threads that render. A rendering takes a tenth of a millisecond longer than in this process, and does not hold the
GIL.
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
from server.text.chat_templates.messages import FAILURES, MessageKind, receive_message, send_message
from server.text.chat_templates.runner import (
    TemplateFacts,
    TemplateInterrupted,
    TemplateLimits,
    TemplateOverrun,
    TemplateStopped,
)

_COMMAND = (sys.executable, "-P", "-m", "server.text.chat_templates.process")  # -P: not from the current folder
_CLOCK_FACTOR = 2  # seconds of real time for one of processor time, on a busy machine
_START_TIMEOUT_S = 60.0
_END_TIMEOUT_S = 1.0


class TemplateProcesses:
    """A TemplateRunner whose templates run in other processes. Its creator must close it."""

    def __init__(self, limits: TemplateLimits = TemplateLimits()) -> None:  # noqa: B008 - it is frozen
        self._limits = limits
        self._idle: list[_Process] = []
        self._all: set[_Process] = set()
        self._lock = threading.Lock()
        self._is_closed = False

    def begin(self) -> None:
        """Start a process before the first template needs it."""
        self._put_back(self._new())

    def inspect(self, source: str) -> TemplateFacts:
        facts = json.loads(self._run(MessageKind.INSPECT, source, None))
        return TemplateFacts(**{name: frozenset(values) for name, values in facts.items()})

    def render(self, source: str, variables: Mapping[str, Any]) -> str:
        return self._run(MessageKind.RENDER, source, variables).decode("utf-8", "surrogatepass")

    def close(self) -> None:
        """End all processes. Renderings in progress raise TemplateStopped."""
        with self._lock:
            self._is_closed = True
            busy, idle = self._all.difference(self._idle), self._idle
            self._all, self._idle = set(), []
        for process in busy:
            process.kill()  # the thread that waits for it discards it
        for process in idle:
            process.discard()

    def _run(self, kind: MessageKind, source: str, variables: Mapping[str, Any] | None) -> bytearray:
        """Send a request to a process, and return the payload of the reply.

        Raises TemplateUnreadable, TemplateRefusal and TemplateOverrun.
        """
        process = self._take()
        try:
            reply, payload = process.ask(kind, marshal.dumps((source, None if variables is None else dict(variables))))
        except TemplateOverrun:
            self._end(process)
            if self._is_closed:
                raise TemplateStopped from None
            raise
        except BaseException:
            self._end(process)
            raise
        self._put_back(process)
        if (failure := FAILURES.get(reply)) is not None:
            raise failure(payload.decode("utf-8", "replace"))
        return payload

    def _take(self) -> "_Process":
        while True:
            with self._lock:
                process = self._idle.pop() if self._idle else None
            if process is None:
                return self._new()
            if process.is_alive:
                return process
            self._end(process)  # ended by the system's out-of-memory killer, for example

    def _new(self) -> "_Process":
        process = _Process(self._limits)
        with self._lock:
            if not self._is_closed:
                self._all.add(process)
                return process
        process.discard()
        raise TemplateStopped

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
    """A process that runs templates. Only `kill` may be called while another thread uses the process."""

    def __init__(self, limits: TemplateLimits) -> None:
        self._channel, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [*_COMMAND, str(limits.seconds), str(limits.num_bytes)],
                # The process needs none of the server's variables, which include keys.
                env={name: value for name, value in os.environ.items() if not name.startswith("HEADRACE_")},
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                start_new_session=True,  # the server handles a terminal's Ctrl-C
            )
        self._limits = limits
        self._has_started = False

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    def ask(self, kind: MessageKind, request: bytes) -> tuple[MessageKind, bytearray]:
        """Send a request and return the reply. Raises TemplateOverrun, after which the process must be discarded."""
        timeout_s = _CLOCK_FACTOR * self._limits.seconds
        try:
            self._await_start()
            self._channel.settimeout(timeout_s)
            send_message(self._channel, kind, request)
            return receive_message(self._channel)
        except TimeoutError:
            what = f"it ran for more than {timeout_s:g} s" if self._has_started else "its process did not start in time"
            raise TemplateInterrupted(f"{what} and was ended; other work may keep the machine busy") from None
        except (EOFError, OSError):
            raise self._error_of_end() from None

    def _await_start(self) -> None:
        """Wait until the process has finished its imports, which take long on a busy machine."""
        if not self._has_started:
            self._channel.settimeout(_START_TIMEOUT_S)
            receive_message(self._channel)
            self._has_started = True

    def _error_of_end(self) -> TemplateOverrun:
        try:
            code = self._process.wait(_END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            return TemplateInterrupted("the process that it ran in closed its socket")
        if code == -signal.SIGXCPU:
            return TemplateOverrun(f"it ran for more than {self._limits.seconds:g} s")
        return TemplateInterrupted(f"the process that it ran in was ended ({describe_exit(code)})")

    def kill(self) -> None:
        """Kill the process, even while it renders. May be called from any thread."""
        self._process.kill()

    def discard(self) -> None:
        self.kill()
        self._process.wait()
        self._channel.close()
